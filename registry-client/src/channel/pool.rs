//! The instances of one service: whom to connect to, and who can take calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, futures::OwnedNotified, mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    connect::Connector,
    connection::Connection,
    failure::{NoInstance, Peer},
    subchannel::{Event, State, Subchannel},
};
use crate::{
    ChannelConfig,
    balance::{Candidate, Load, ReadySet},
    health::Record,
    instance::{Health, Instance, InstanceId, ServiceName},
    resolve::Resolution,
    telemetry::{Counters, InstanceState},
};

/// How long an instance that left the registry, but answers, is kept after an
/// ordinary removal.
const KEEP: Duration = Duration::from_secs(30);
/// The same when more than half of the set left at once: that is more often a
/// registry that lost its memory than a service that shrank.
const KEEP_AFTER_COLLAPSE: Duration = Duration::from_secs(600);
/// Events of subchannels that may wait for the pool.
const EVENTS: usize = 64;

/// What calls see of the pool; replaced as a whole.
#[derive(Debug)]
pub(super) struct View {
    snapshot: ArcSwap<Snapshot>,
    /// Wakes whoever waits in the order in which they came.
    changed: Arc<Notify>,
}

/// The ready set with the connections behind it.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) ready: ReadySet,
    /// One for each candidate of `ready`, in the same order.
    pub(super) connections: Box<[Arc<Connection>]>,
    /// Why `ready` is empty, when it is.
    pub(super) why: NoInstance,
    /// Every instance there is, ready or not.
    pub(super) known: Box<[Known]>,
    /// Why the last look-up failed, if it did.
    pub(super) resolver_error: Option<Arc<str>>,
}

/// An instance, for whoever looks into the channel.
#[derive(Debug)]
pub(super) struct Known {
    state: InstanceState,
    load: Arc<Load>,
}

impl Known {
    pub(super) fn state(&self) -> InstanceState {
        InstanceState { in_flight: self.load.in_flight(), ..self.state.clone() }
    }
}

impl View {
    pub(super) fn new() -> Self {
        let nothing = Snapshot {
            ready: ReadySet::default(),
            connections: Box::default(),
            why: NoInstance::NeverResolved(None),
            known: Box::default(),
            resolver_error: None,
        };
        Self { snapshot: ArcSwap::from_pointee(nothing), changed: Arc::default() }
    }

    pub(super) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Completes at the first change from now on.
    pub(super) fn changes(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.changed.notify_waiters();
    }
}

/// The task that owns the subchannels of one service.
pub(super) struct Pool {
    service: ServiceName,
    connector: Connector,
    config: ChannelConfig,
    view: Arc<View>,
    resolution: watch::Receiver<Resolution>,
    /// Ordered, so that the same events lead to the same actions.
    members: BTreeMap<InstanceId, Member>,
    events: mpsc::Receiver<(InstanceId, u64, Event)>,
    to_pool: mpsc::Sender<(InstanceId, u64, Event)>,
    generations: u64,
    counters: Arc<Counters>,
    /// Whether instances are used that the registry calls critical.
    panicking: bool,
    /// Whether there was ever one that it does not; a newcomer is critical
    /// until its first check, which is nothing to warn of.
    was_well: bool,
}

/// One instance and what is kept about it across registry updates.
struct Member {
    instance: Instance,
    generation: u64,
    load: Arc<Load>,
    record: Arc<Record>,
    subchannel: Subchannel,
    /// Set while the registry does not list it: until when it is kept.
    unlisted: Option<Instant>,
}

impl Pool {
    pub(super) fn new(
        service: ServiceName,
        connector: Connector,
        config: ChannelConfig,
        view: Arc<View>,
        resolution: watch::Receiver<Resolution>,
        counters: Arc<Counters>,
    ) -> Self {
        let (to_pool, events) = mpsc::channel(EVENTS);
        Self {
            service,
            connector,
            config,
            view,
            resolution,
            members: BTreeMap::new(),
            events,
            to_pool,
            generations: 0,
            counters,
            panicking: false,
            was_well: false,
        }
    }

    /// Runs until its task is dropped with the channel.
    pub(super) async fn run(mut self) {
        self.resolution.mark_changed();
        let mut resolving = true;
        loop {
            let next_expiry = self.members.values().filter_map(|m| m.unlisted).min();
            tokio::select! {
                // In a fixed order, so that a simulation can be repeated.
                biased;
                changed = self.resolution.changed(), if resolving => match changed {
                    Ok(()) => self.reconcile(),
                    // The resolver ended; its last word holds.
                    Err(_) => resolving = false,
                },
                Some(event) = self.events.recv() => {
                    self.apply(event);
                    // Many instances change together: one new view for all.
                    while let Ok(event) = self.events.try_recv() {
                        self.apply(event);
                    }
                }
                () = until(next_expiry) => self.forget(),
            }
            self.publish();
        }
    }

    /// Brings the members in line with what the registry says now.
    fn reconcile(&mut self) {
        let resolution = self.resolution.borrow_and_update().clone();
        let Some(listed) = resolution.instances else { return };
        let listed: BTreeMap<&InstanceId, &Instance> = listed.iter().map(|i| (&i.id, i)).collect();

        let before = self.members.values().filter(|m| m.unlisted.is_none()).count();
        let absent =
            self.members.iter().filter(|(id, m)| m.unlisted.is_none() && !listed.contains_key(id)).count();
        let collapsed = absent * 2 > before;
        let until = Instant::now() + if collapsed { KEEP_AFTER_COLLAPSE } else { KEEP };
        for (id, member) in &mut self.members {
            if member.unlisted.is_none() && !listed.contains_key(id) {
                member.unlisted = Some(until);
                member.subchannel.set_eager(false);
            }
        }
        if absent > 0 {
            let service = &self.service;
            info!(%service, absent, of = before, "instances of `{service}` left the registry; those that answer are kept for a while");
        }
        self.forget();
        for instance in listed.into_values() {
            self.meet(instance);
        }
    }

    /// Takes in what the registry says of one instance.
    fn meet(&mut self, instance: &Instance) {
        if let Some(member) = self.members.get_mut(&instance.id)
            && member.instance.address == instance.address
        {
            let recovered = instance.health == Health::Passing && member.instance.health != Health::Passing;
            let news = recovered || member.unlisted.is_some();
            member.unlisted = None;
            member.instance = instance.clone();
            member.subchannel.set_eager(instance.health == Health::Passing);
            if news {
                member.subchannel.hurry();
            }
            return;
        }
        // New, or moved to another address: connections of the old one finish.
        self.generations += 1;
        let (load, record) =
            self.members.remove(&instance.id).map(|member| (member.load, member.record)).unwrap_or_default();
        let peer = Peer { id: instance.id.clone(), address: instance.address.clone() };
        let subchannel = Subchannel::start(
            peer,
            self.generations,
            (load.clone(), record.clone()),
            self.connector.clone(),
            self.config.clone(),
            self.to_pool.clone(),
        );
        subchannel.set_eager(instance.health == Health::Passing);
        let member = Member {
            instance: instance.clone(),
            generation: self.generations,
            load,
            record,
            subchannel,
            unlisted: None,
        };
        self.members.insert(instance.id.clone(), member);
    }

    fn apply(&mut self, (id, generation, event): (InstanceId, u64, Event)) {
        if let Some(member) = self.members.get_mut(&id)
            && member.generation == generation
        {
            match &event {
                Event::Connected(_) => self.counters.connections_opened.add(),
                Event::Failed(_) => self.counters.connections_failed.add(),
                Event::Closed(_) | Event::Goaway => self.counters.connections_closed.add(),
                Event::Connect => {}
            }
            member.subchannel.apply(event);
            self.forget();
        }
    }

    /// Drops unlisted members that do not answer or were kept long enough.
    fn forget(&mut self) {
        let now = Instant::now();
        self.members.retain(|id, member| {
            let Some(until) = member.unlisted else { return true };
            let kept = member.subchannel.state == State::Ready && now < until;
            if !kept {
                info!(service = %self.service, instance = %id, "forgotten: not in the registry, and not answering or kept long enough");
            }
            kept
        });
    }

    fn publish(&mut self) {
        let (usable, critical): (Vec<_>, Vec<_>) = self
            .members
            .values()
            .filter(|m| m.subchannel.state == State::Ready && m.instance.health != Health::Maintenance)
            .partition(|m| m.instance.health != Health::Critical);
        // Panic: when nothing healthy is left, an instance that the registry
        // calls critical but that answers is better than failing.
        let panicking = usable.is_empty() && !critical.is_empty();
        if panicking && !self.panicking && self.was_well {
            warn!(service = %self.service, instances = critical.len(), "every instance is critical in the registry; calling those that answer");
        }
        let well = !usable.is_empty();
        let mut chosen = if panicking { critical } else { usable };
        // Whatever order the registry has, round robin keeps one of its own.
        chosen.sort_unstable_by(|a, b| a.instance.id.cmp(&b.instance.id));
        let (candidates, connections): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .filter_map(|m| Some((m.candidate(), m.subchannel.connection.clone()?)))
            .unzip();
        self.view.publish(Snapshot {
            ready: ReadySet::new(candidates),
            connections: connections.into(),
            why: self.why(),
            known: self.members.values().map(|member| member.known(panicking)).collect(),
            resolver_error: self.resolution.borrow().error.clone(),
        });
        self.panicking = panicking;
        self.was_well |= well;
    }

    /// Why nobody would be ready.
    fn why(&self) -> NoInstance {
        let resolution = self.resolution.borrow();
        if resolution.instances.is_none() {
            return NoInstance::NeverResolved(resolution.error.clone());
        }
        if self.members.is_empty() {
            return NoInstance::NoneListed(resolution.error.clone());
        }
        let fresh = |m: &&Member| {
            matches!(m.subchannel.state, State::Idle | State::Connecting) && m.subchannel.cause.is_none()
        };
        match self.members.values().filter(fresh).count() {
            0 => NoInstance::AllFailing(
                self.members.values().map(|m| (m.instance.id.clone(), m.cause())).collect(),
            ),
            n => NoInstance::Connecting(n),
        }
    }
}

impl Member {
    fn candidate(&self) -> Candidate {
        Candidate { id: self.instance.id.clone(), weight: self.instance.weight, load: self.load.clone() }
    }

    /// What is told of it. `panicking`: a critical one is used too.
    fn known(&self, panicking: bool) -> Known {
        let connected = self.subchannel.state == State::Ready;
        let allowed = match self.instance.health {
            Health::Passing | Health::Warning => true,
            Health::Critical => panicking,
            Health::Maintenance => false,
        };
        let ready = connected && allowed;
        let registry = match self.instance.health {
            _ if self.unlisted.is_some() => "unlisted",
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
            Health::Maintenance => "maintenance",
        };
        let decided_by = if ready {
            None
        } else if connected {
            Some("registry")
        } else {
            Some("connection")
        };
        let state = InstanceState {
            id: self.instance.id.to_string(),
            address: self.instance.address.to_string(),
            ready,
            why: if ready { String::new() } else { self.cause().to_string() },
            decided_by,
            registry,
            watch: "off",
            connection: self.subchannel.state.name(),
            connections: usize::from(self.subchannel.connection.is_some()),
            in_flight: 0,
            weight: self.instance.weight,
            ejections: 0,
        };
        Known { state, load: self.load.clone() }
    }

    /// Why it takes no calls.
    fn cause(&self) -> Arc<str> {
        match &self.subchannel.cause {
            Some(cause) => cause.clone(),
            None => format!("{:?} in the registry: {}", self.instance.health, self.instance.reason).into(),
        }
    }
}

/// Completes at `at`; never when there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
