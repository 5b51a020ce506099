//! The instances of one service: their connections, and the set that takes
//! calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Uri;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    connect::Connector, keepalive::ServicePings, no_instance::NoInstance, subchannel::SubchannelEvent,
};
use crate::{
    ChannelConfig,
    balance::ReadySet,
    health::{Detector, FailureRules, OutlierConfig, Preference},
    instance::{InstanceId, ServiceName},
    resolve::Resolution,
    telemetry::Counters,
};

mod member;
mod outliers;
mod reconcile;
mod view;

use member::Member;
use view::ProbeSlot;

pub(super) use view::{Connections, InstanceSnapshot, Snapshot, View};

/// The time for which an instance that left the registry is kept while it is
/// connected.
const UNLISTED_TIMEOUT: Duration = Duration::from_secs(30);
/// The time for which it is kept when more than half of the set left at once:
/// that is more often a registry that lost its data than a service that shrank.
const UNLISTED_TIMEOUT_AFTER_COLLAPSE: Duration = Duration::from_secs(600);
/// The most events of subchannels that are queued for the pool.
const MAX_QUEUED_EVENTS: usize = 64;

/// The task that owns the subchannels of one service.
pub(super) struct Pool {
    service: ServiceName,
    connector: Connector,
    config: ChannelConfig,
    /// The complaints of the servers about pings.
    pings: Arc<ServicePings>,
    view: Arc<View>,
    resolution: watch::Receiver<Resolution>,
    /// Ordered, so that the same events lead to the same actions.
    members: BTreeMap<InstanceId, Member>,
    events: mpsc::Receiver<(InstanceId, u64, SubchannelEvent)>,
    to_pool: mpsc::Sender<(InstanceId, u64, SubchannelEvent)>,
    generations: u64,
    counters: Arc<Counters>,
    /// The URI of the health check; `None` when it is off.
    health: Option<Uri>,
    rules: Arc<FailureRules>,
    /// `None` when outlier detection is off.
    detector: Option<Detector>,
    /// The next step of a new instance's weight.
    next_warm_up: Option<Instant>,
    /// True if instances are used as a last resort ("panic").
    is_panicking: bool,
    /// True if an instance was ever healthy; a new instance is critical until
    /// its first check, which is not worth a warning.
    was_healthy: bool,
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
        let (to_pool, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        let method = format!("http://{service}/grpc.health.v1.Health/Watch");
        let outlier = config.outlier.clone();
        Self {
            health: method.parse().ok().filter(|_| config.health_watch),
            rules: Arc::new(FailureRules::new(outlier.as_ref().unwrap_or(&OutlierConfig::default()))),
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
            next_warm_up: None,
            is_panicking: false,
            was_healthy: false,
        }
    }

    /// Runs until the channel drops the task.
    pub(super) async fn run(mut self) {
        self.resolution.mark_changed();
        let mut resolving = true;
        let rules = self.rules.clone();
        loop {
            let next_timer = self.next_timer();
            let changed = tokio::select! {
                // In a fixed order, so that a simulation can be repeated.
                biased;
                changed = self.resolution.changed(), if resolving => match changed {
                    Ok(()) => {
                        self.reconcile();
                        true
                    }
                    // The resolver ended; its last set holds.
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
                    self.detect_outliers(|detector, candidates, now| detector.check_acute(candidates, now));
                    true
                }
                () = rules.wake.notified(), if self.detector.is_some() => {
                    let settled = self.settle_probes();
                    self.detect_outliers(|detector, candidates, now| detector.check_acute(candidates, now)) || settled
                }
                () = until(next_timer) => self.run_timers(),
            };
            if changed {
                self.publish();
            }
        }
    }

    /// The time of the next event that does not come from outside.
    fn next_timer(&self) -> Option<Instant> {
        let members = self.members.values();
        let of_members = members.flat_map(|m| {
            let held = m.damping.hold().map(|hold| hold.until);
            [m.unlisted, m.ejection.ends_at(), held, self.probe_due(m)]
        });
        of_members
            .chain([self.detector.as_ref().map(Detector::next_sweep), self.next_warm_up])
            .flatten()
            .min()
    }

    /// Does everything that is due; returns whether anything visible changed.
    fn run_timers(&mut self) -> bool {
        let now = Instant::now();
        let mut changed = self.evict_expired() | self.next_warm_up.is_some_and(|at| at <= now);
        for (id, member) in &mut self.members {
            changed |= member.ejection.advance(now);
            if member.damping.advance(now) {
                info!(service = %self.service, instance = %id, "`{id}` gets calls again: it has stayed in service");
                changed = true;
            }
        }
        changed |= self.settle_probes();
        if self.detector.as_ref().is_some_and(|detector| detector.next_sweep() <= now) {
            changed |= self.detect_outliers(Detector::sweep);
        }
        changed
    }

    fn apply(&mut self, (id, generation, event): (InstanceId, u64, SubchannelEvent)) {
        if let Some(member) = self.members.get_mut(&id)
            && member.generation == generation
        {
            match &event {
                SubchannelEvent::Connected(_) | SubchannelEvent::Added(_) => {
                    self.counters.connections_opened.add();
                }
                SubchannelEvent::Failed(_) => self.counters.connections_failed.add(),
                SubchannelEvent::Closed(_) | SubchannelEvent::Goaway(_) | SubchannelEvent::Removed(_) => {
                    self.counters.connections_closed.add();
                }
                SubchannelEvent::Connect | SubchannelEvent::HealthChanged(_) => {}
            }
            if matches!(&event, SubchannelEvent::Closed(_)) && member.is_connected() {
                member.ejection.lost_connection();
            }
            member.subchannel.apply(event);
            self.evict_expired();
        }
    }

    /// Removes unlisted members that are not connected or have expired; returns
    /// whether there were any.
    fn evict_expired(&mut self) -> bool {
        let (now, before) = (Instant::now(), self.members.len());
        self.members.retain(|id, member| {
            let Some(until) = member.unlisted else { return true };
            let kept = member.is_connected() && now < until;
            if !kept {
                info!(service = %self.service, instance = %id, "removed `{id}`: not in the registry, and not connected or kept long enough");
            }
            kept
        });
        self.members.len() != before
    }

    /// The members that take calls, and their group.
    fn preferred(&self) -> (Vec<&Member>, Option<Preference>) {
        let used = self.members.values().filter_map(|member| member.verdict().preference()).min();
        let is_used = |member: &&Member| used.is_some() && member.verdict().preference() == used;
        (self.members.values().filter(is_used).collect(), used)
    }

    /// Holds back members that returned too often.
    fn damp(&mut self, now: Instant) {
        for (id, member) in &mut self.members {
            // Logged for the second return only: flapping may go on for long.
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
        let probe_slots: Box<[Arc<ProbeSlot>]> =
            self.members.values_mut().filter_map(|member| member.probe_slot(rules)).collect();
        let (preferred, used) = self.preferred();
        let is_panicking = used == Some(Preference::LastResort);
        let usable = preferred.len();
        let warming = preferred.iter().any(|member| member.is_warming());
        // Ordered by id, so that round robin does not depend on the order of
        // the registry.
        let (candidates, connections): (Vec<_>, Vec<_>) = preferred
            .into_iter()
            .filter_map(|member| {
                Some((member.candidate(warming), member.subchannel.connections_for_calls()?))
            })
            .unzip();
        self.view.publish(Snapshot {
            ready: ReadySet::new(candidates),
            connections: connections.into(),
            probe_slots,
            no_instance: self.no_instance(),
            instances: self.members.values().map(|member| member.snapshot(used)).collect(),
            resolver_error: self.resolution.borrow().error.clone(),
        });
        if is_panicking && !self.is_panicking && self.was_healthy {
            warn!(service = %self.service, instances = usable, "no instance of `{}` is healthy; sending calls to those that are connected", self.service);
        }
        self.next_warm_up = self.members.values().filter_map(|member| member.next_warm_up(now, window)).min();
        self.is_panicking = is_panicking;
        self.was_healthy |= usable > 0 && !is_panicking;
    }

    /// The reason for which no instance is ready, should that be so.
    fn no_instance(&self) -> NoInstance {
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

/// Completes at `at`; never without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
