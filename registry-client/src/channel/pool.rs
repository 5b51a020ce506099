//! The instances of one service: whom to connect to, and who can take calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Uri;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{connect::Connector, failure::NoInstance, keepalive::ServicePings, subchannel::Event};
use crate::{
    ChannelConfig,
    balance::ReadySet,
    health::{Detector, OutlierConfig, Preference, Rules},
    instance::{InstanceId, ServiceName},
    resolve::Resolution,
    telemetry::Counters,
};

mod member;
mod outliers;
mod reconcile;
mod view;

use member::Member;
use view::Offer;

pub(super) use view::{Known, Lanes, Snapshot, View};

/// How long an instance that left the registry, but answers, is kept after an
/// ordinary removal.
const KEEP: Duration = Duration::from_secs(30);
/// The same when more than half of the set left at once: that is more often a
/// registry that lost its memory than a service that shrank.
const KEEP_AFTER_COLLAPSE: Duration = Duration::from_secs(600);
/// Events of subchannels that may wait for the pool.
const EVENTS: usize = 64;

/// The task that owns the subchannels of one service.
pub(super) struct Pool {
    service: ServiceName,
    connector: Connector,
    config: ChannelConfig,
    /// What its servers have said about pings.
    pings: Arc<ServicePings>,
    view: Arc<View>,
    resolution: watch::Receiver<Resolution>,
    /// Ordered, so that the same events lead to the same actions.
    members: BTreeMap<InstanceId, Member>,
    events: mpsc::Receiver<(InstanceId, u64, Event)>,
    to_pool: mpsc::Sender<(InstanceId, u64, Event)>,
    generations: u64,
    counters: Arc<Counters>,
    /// The URI at which instances are asked for their health; `None` when they
    /// are not.
    health: Option<Uri>,
    rules: Arc<Rules>,
    /// `None` when nobody is ejected.
    detector: Option<Detector>,
    /// When the share of a newcomer grows next.
    warms: Option<Instant>,
    /// Whether instances are used as a last resort.
    panicking: bool,
    /// Whether there was ever one to use otherwise; a newcomer is critical
    /// until its first check, which is nothing to warn of.
    was_well: bool,
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
        let method = format!("http://{service}/grpc.health.v1.Health/Watch");
        let outlier = config.outlier.clone();
        Self {
            health: method.parse().ok().filter(|_| config.health_watch),
            rules: Arc::new(Rules::new(outlier.as_ref().unwrap_or(&OutlierConfig::default()))),
            detector: outlier.map(|config| Detector::new(config, Instant::now())),
            pings: Arc::new(ServicePings::new(service.clone())),
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
            warms: None,
            panicking: false,
            was_well: false,
        }
    }

    /// Runs until its task is dropped with the channel.
    pub(super) async fn run(mut self) {
        self.resolution.mark_changed();
        let mut resolving = true;
        let rules = self.rules.clone();
        loop {
            let due = self.due();
            let changed = tokio::select! {
                // In a fixed order, so that a simulation can be repeated.
                biased;
                changed = self.resolution.changed(), if resolving => match changed {
                    Ok(()) => {
                        self.reconcile();
                        true
                    }
                    // The resolver ended; its last word holds.
                    Err(_) => {
                        resolving = false;
                        false
                    }
                },
                Some(event) = self.events.recv() => {
                    self.apply(event);
                    // Many instances change together: one new view for all.
                    while let Ok(event) = self.events.try_recv() {
                        self.apply(event);
                    }
                    self.judge(|detector, subjects, now| detector.look(subjects, now));
                    true
                }
                () = rules.alarm.notified(), if self.detector.is_some() => {
                    let settled = self.settle_probes();
                    self.judge(|detector, subjects, now| detector.look(subjects, now)) || settled
                }
                () = until(due) => self.act_on_time(),
            };
            if changed {
                self.publish();
            }
        }
    }

    /// When something is due by time alone.
    fn due(&self) -> Option<Instant> {
        let members = self.members.values();
        let of_members = members.flat_map(|m| {
            let held = m.damping.hold().map(|hold| hold.until);
            [m.unlisted, m.standing.due(), held, self.probe_due(m)]
        });
        of_members.chain([self.detector.as_ref().map(Detector::due), self.warms]).flatten().min()
    }

    /// Does what is due; whether it is to be seen.
    fn act_on_time(&mut self) -> bool {
        let now = Instant::now();
        let mut changed = self.forget() | self.warms.is_some_and(|at| at <= now);
        for (id, member) in &mut self.members {
            changed |= member.standing.advance(now);
            if member.damping.advance(now) {
                info!(service = %self.service, instance = %id, "`{id}` gets calls again: it has stayed in service");
                changed = true;
            }
        }
        changed |= self.settle_probes();
        if self.detector.as_ref().is_some_and(|detector| detector.due() <= now) {
            changed |= self.judge(Detector::sweep);
        }
        changed
    }

    fn apply(&mut self, (id, generation, event): (InstanceId, u64, Event)) {
        if let Some(member) = self.members.get_mut(&id)
            && member.generation == generation
        {
            match &event {
                Event::Connected(_) | Event::Joined(_) => self.counters.connections_opened.add(),
                Event::Failed(_) => self.counters.connections_failed.add(),
                Event::Closed(_) | Event::Goaway(_) | Event::Left(_) => {
                    self.counters.connections_closed.add();
                }
                Event::Connect | Event::Watched(_) => {}
            }
            if matches!(&event, Event::Closed(_)) && member.is_connected() {
                member.standing.lost_connection();
            }
            member.subchannel.apply(event);
            self.forget();
        }
    }

    /// Drops unlisted members that do not answer or were kept long enough;
    /// whether there were any.
    fn forget(&mut self) -> bool {
        let (now, before) = (Instant::now(), self.members.len());
        self.members.retain(|id, member| {
            let Some(until) = member.unlisted else { return true };
            let kept = member.is_connected() && now < until;
            if !kept {
                info!(service = %self.service, instance = %id, "forgotten: not in the registry, and not answering or kept long enough");
            }
            kept
        });
        self.members.len() != before
    }

    /// The members that take calls, and the group that they are of.
    fn chosen(&self) -> (Vec<&Member>, Option<Preference>) {
        let used = self.members.values().filter_map(|member| member.verdict().preference()).min();
        let is_used = |member: &&Member| used.is_some() && member.verdict().preference() == used;
        (self.members.values().filter(is_used).collect(), used)
    }

    /// Holds members that returned too often.
    fn damp(&mut self, now: Instant) {
        for (id, member) in &mut self.members {
            // Said of the second return only, for it may go on for long.
            if let Some(hold) = member.damp(now).filter(|hold| hold.returns == 2) {
                info!(service = %self.service, instance = %id, "`{id}` {hold}; it gets calls again when it has stayed in service for a while");
            }
        }
    }

    fn publish(&mut self) {
        let (now, window) = (Instant::now(), self.config.slow_start);
        self.damp(now);
        let rules = &self.rules;
        self.members.values_mut().for_each(|member| member.warm(now, window));
        let offers: Box<[Arc<Offer>]> =
            self.members.values_mut().filter_map(|member| member.offer(rules)).collect();
        let (chosen, used) = self.chosen();
        let panicking = used == Some(Preference::LastResort);
        let usable = chosen.len();
        let warming = chosen.iter().any(|member| member.is_cold());
        // In the order of their ids: whatever order the registry has, round
        // robin keeps one of its own.
        let (candidates, lanes): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .filter_map(|member| Some((member.candidate(warming), member.subchannel.lanes()?)))
            .unzip();
        self.view.publish(Snapshot {
            ready: ReadySet::new(candidates),
            lanes: lanes.into(),
            offers,
            why: self.why(),
            known: self.members.values().map(|member| member.known(used)).collect(),
            resolver_error: self.resolution.borrow().error.clone(),
        });
        if panicking && !self.panicking && self.was_well {
            warn!(service = %self.service, instances = usable, "no instance of `{}` is well; calling those that answer", self.service);
        }
        self.warms = self.members.values().filter_map(|member| member.warms_at(now, window)).min();
        self.panicking = panicking;
        self.was_well |= usable > 0 && !panicking;
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
        match self.members.values().filter(|member| member.is_settling()).count() {
            0 => NoInstance::AllFailing(
                self.members.values().map(|m| (m.instance.id.clone(), m.cause())).collect(),
            ),
            n => NoInstance::Connecting(n),
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
