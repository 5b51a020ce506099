//! One instance of a pool, with the state that outlives registry updates.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        health_check::HealthCheckConfig,
        keepalive::InstancePings,
        subchannel::{Subchannel, SubchannelState},
    },
    view::{InstanceSnapshot, ProbeSlot},
};
use crate::{
    balance::{Candidate, Load, slow_start},
    health::{
        Damping, DecidedBy, EjectionState, FailureRules, Hold, OutlierCandidate, Phase, Preference, Probe,
        Record, ServingState, Verdict, verdict,
    },
    instance::{Instance, InstanceHealth},
    telemetry::InstanceState,
};

pub(super) struct Member {
    pub(super) instance: Instance,
    pub(super) generation: u64,
    /// The rate of pings that the instance accepts.
    pub(super) pings: Arc<InstancePings>,
    pub(super) load: Arc<Load>,
    pub(super) record: Arc<Record>,
    pub(super) ejection: EjectionState,
    pub(super) damping: Damping,
    /// The slot for the probe of an instance on probation, and the time at
    /// which the probe was first seen in flight.
    pub(super) probe_slot: Option<Arc<ProbeSlot>>,
    pub(super) probe_started: Option<Instant>,
    /// The health check of the instance; `None` when it is off.
    pub(super) health: Option<HealthCheckConfig>,
    /// The probe by a health check, where no call takes the slot.
    pub(super) health_probe: Option<AbortOnDropHandle<()>>,
    pub(super) subchannel: Subchannel,
    pub(super) warming: Warming,
    /// The effective weight, in tenths of the full one.
    pub(super) tenths: u16,
    /// Set while the registry does not list the instance: the time until which
    /// it is kept.
    pub(super) unlisted: Option<Instant>,
}

/// The progress of slow start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Warming {
    /// The instance has its full weight.
    Done,
    /// The instance joined others, and has not been ready yet.
    Waiting,
    /// The instance has been ready since then, and its weight grows.
    Since(Instant),
}

impl Member {
    pub(super) fn is_connected(&self) -> bool {
        self.subchannel.is_connected()
    }

    pub(super) fn verdict(&self) -> Verdict {
        let (connected, watch) = (self.is_connected(), self.subchannel.watch);
        verdict(self.instance.health, connected, watch, self.ejection.phase(), self.damping.hold().is_some())
    }

    /// Records whether the registry and the health check have the instance in
    /// service; returns the hold that begins now, if one does.
    pub(super) fn damp(&mut self, now: Instant) -> Option<Hold> {
        let (connected, watch) = (self.is_connected(), self.subchannel.watch);
        match verdict(self.instance.health, connected, watch, Phase::In, false) {
            // A lost connection does not count: it has a backoff of its own.
            Verdict::Out(DecidedBy::Connection | DecidedBy::ServingState) => None,
            verdict => self.damping.observe(verdict == Verdict::In, now),
        }
    }

    pub(super) fn outlier_candidate(&mut self) -> OutlierCandidate<'_> {
        OutlierCandidate { record: &self.record, ejection: &mut self.ejection }
    }

    /// The candidate that pickers see. `scaled`: with a weight in tenths of the
    /// full one.
    pub(super) fn candidate(&self, scaled: bool) -> Candidate {
        let tenths = if scaled { self.tenths } else { 1 };
        let weight = self.instance.weight.max(1).saturating_mul(tenths);
        Candidate { id: self.instance.id.clone(), weight, load: self.load.clone() }
    }

    /// Returns whether the instance has less than its full weight yet.
    pub(super) fn is_warming(&self) -> bool {
        self.tenths < slow_start::FULL_TENTHS
    }

    /// Updates the effective weight; slow start begins when the instance is
    /// first in.
    pub(super) fn warm(&mut self, now: Instant, window: Duration) {
        if matches!(self.warming, Warming::Waiting) && self.verdict() == Verdict::In {
            self.warming = Warming::Since(now);
        }
        self.tenths = match self.warming {
            Warming::Done => slow_start::FULL_TENTHS,
            Warming::Waiting => 1,
            Warming::Since(since) => slow_start::tenths(now - since, window),
        };
        if matches!(self.warming, Warming::Since(_)) && !self.is_warming() {
            self.warming = Warming::Done;
        }
    }

    /// The time of the next step of the weight.
    pub(super) fn next_warm_up(&self, now: Instant, window: Duration) -> Option<Instant> {
        let Warming::Since(since) = self.warming else { return None };
        Some(since + slow_start::next_step(now - since, window)?)
    }

    /// Returns whether the instance may be ready soon: its first connection or
    /// health check is pending.
    pub(super) fn is_settling(&self) -> bool {
        let fresh = matches!(self.subchannel.state, SubchannelState::Idle | SubchannelState::Connecting);
        (fresh && self.subchannel.cause.is_none())
            || (self.is_connected() && self.subchannel.watch == ServingState::Unknown)
    }

    /// The probe slot while the instance is on probation.
    pub(super) fn probe_slot(&mut self, rules: &Arc<FailureRules>) -> Option<Arc<ProbeSlot>> {
        if self.verdict() != Verdict::Probe {
            // An unclaimed slot is withdrawn; the end of a probe in flight is
            // awaited.
            self.probe_slot.take_if(|_| self.probe_started.is_none());
            return None;
        }
        if self.probe_slot.is_none() {
            let connection = self.subchannel.connections().next()?;
            self.probe_slot = Some(Arc::new(ProbeSlot::new(Probe::new(rules.clone()), connection)));
        }
        self.probe_slot.clone()
    }

    /// The state of the instance for the snapshot. `used` is the group that
    /// gets calls.
    pub(super) fn snapshot(&self, used: Option<Preference>) -> InstanceSnapshot {
        let verdict = self.verdict();
        let ready = verdict.preference().is_some_and(|preference| used == Some(preference));
        let by = match verdict {
            Verdict::In => None,
            Verdict::LastResort(by) | Verdict::Out(by) => Some(by),
            Verdict::Probe => Some(DecidedBy::Outlier),
        };
        let registry = match self.instance.health {
            _ if self.unlisted.is_some() => "unlisted",
            InstanceHealth::Passing => "passing",
            InstanceHealth::Warning => "warning",
            InstanceHealth::Critical => "critical",
            InstanceHealth::Maintenance => "maintenance",
        };
        let state = InstanceState {
            id: self.instance.id.to_string(),
            address: self.instance.address.to_string(),
            ready,
            why: by.map_or_else(String::new, |by| self.explain(by)),
            decided_by: by.filter(|_| !ready).map(DecidedBy::name),
            registry,
            watch: self.subchannel.watch.name(),
            connection: match self.is_connected() {
                true => SubchannelState::Ready.name(),
                false => self.subchannel.state.name(),
            },
            connections: self.subchannel.connections().count(),
            in_flight: 0,
            weight: self.instance.weight,
            ejections: self.ejection.ejections(),
        };
        let hold = self.damping.hold().filter(|_| by == Some(DecidedBy::Damping));
        InstanceSnapshot { state, load: self.load.clone(), hold }
    }

    /// The reason for which the instance gets no calls.
    pub(super) fn cause(&self) -> Arc<str> {
        match self.verdict() {
            Verdict::In => "it is healthy".into(),
            Verdict::LastResort(by) | Verdict::Out(by) => self.explain(by).into(),
            Verdict::Probe => self.explain(DecidedBy::Outlier).into(),
        }
    }

    /// The explanation of a decision by `by`.
    fn explain(&self, by: DecidedBy) -> String {
        match by {
            DecidedBy::Registry => {
                format!("{:?} in the registry: {}", self.instance.health, self.instance.reason)
            }
            DecidedBy::ServingState if self.subchannel.watch == ServingState::Unknown => {
                "its health check has no result yet".into()
            }
            DecidedBy::ServingState => match self.health.as_ref().map(|query| &*query.service) {
                None | Some("") => "its health service reports that it does not serve".into(),
                Some(name) => {
                    format!("its health service reports that `{name}` does not serve, or does not know it")
                }
            },
            DecidedBy::Connection => self
                .subchannel
                .cause
                .as_deref()
                .unwrap_or("the first connection is still being opened")
                .into(),
            DecidedBy::Outlier => self.ejection.reason().unwrap_or_default(),
            DecidedBy::Damping => self.damping.hold().map(|hold| hold.to_string()).unwrap_or_default(),
        }
    }
}
