//! One instance of a pool, and what is kept about it across registry updates.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        keepalive::InstancePings,
        subchannel::{State, Subchannel},
        watch::HealthQuery,
    },
    view::{Known, Offer},
};
use crate::{
    balance::{Candidate, Load, slow_start},
    health::{
        By, Damping, Hold, Phase, Preference, Probe, Record, Rules, Standing, Subject, Verdict, Watch, weigh,
    },
    instance::{Health, Instance},
    telemetry::InstanceState,
};

pub(super) struct Member {
    pub(super) instance: Instance,
    pub(super) generation: u64,
    /// How often it accepts pings.
    pub(super) pings: Arc<InstancePings>,
    pub(super) load: Arc<Load>,
    pub(super) record: Arc<Record>,
    pub(super) standing: Standing,
    pub(super) damping: Damping,
    /// The one call that is let through to it on probation, and when it was
    /// seen to be under way.
    pub(super) offer: Option<Arc<Offer>>,
    pub(super) probed: Option<Instant>,
    /// What it is asked for its health, if it is.
    pub(super) health: Option<HealthQuery>,
    /// Asks for its health where no call comes that may try it.
    pub(super) health_probe: Option<AbortOnDropHandle<()>>,
    pub(super) subchannel: Subchannel,
    pub(super) warming: Warming,
    /// So many tenths of its weight it has.
    pub(super) tenths: u16,
    /// Set while the registry does not list it: until when it is kept.
    pub(super) unlisted: Option<Instant>,
}

/// Whether an instance gets its whole share of the load.
#[derive(Clone, Copy, Debug)]
pub(super) enum Warming {
    /// Yes.
    Done,
    /// It joined others, and has not been ready yet.
    Waiting,
    /// It has been ready since then, and gets a growing share.
    Since(Instant),
}

impl Member {
    pub(super) fn is_connected(&self) -> bool {
        self.subchannel.is_connected()
    }

    pub(super) fn verdict(&self) -> Verdict {
        let (connected, watch) = (self.is_connected(), self.subchannel.watch);
        weigh(self.instance.health, connected, watch, self.standing.phase(), self.damping.hold().is_some())
    }

    /// Records whether the registry and its health service have it in service;
    /// returns the hold that begins with this, if one does.
    pub(super) fn damp(&mut self, now: Instant) -> Option<Hold> {
        let (connected, watch) = (self.is_connected(), self.subchannel.watch);
        match weigh(self.instance.health, connected, watch, Phase::In, false) {
            // A connection says nothing of that: it has a backoff of its own.
            Verdict::Out(By::Connection | By::Watch) => None,
            verdict => self.damping.observe(verdict == Verdict::In, now),
        }
    }

    pub(super) fn subject(&mut self) -> Subject<'_> {
        Subject { record: &self.record, standing: &mut self.standing }
    }

    /// It as a picker sees it. `scaled`: with its weight in tenths of what it
    /// has when it is warm.
    pub(super) fn candidate(&self, scaled: bool) -> Candidate {
        let tenths = if scaled { self.tenths } else { 1 };
        let weight = self.instance.weight.max(1).saturating_mul(tenths);
        Candidate { id: self.instance.id.clone(), weight, load: self.load.clone() }
    }

    /// Whether it has less than its weight yet.
    pub(super) fn is_cold(&self) -> bool {
        self.tenths < slow_start::WHOLE
    }

    /// Takes note of how warm it is; its warming up begins when it is first
    /// in.
    pub(super) fn warm(&mut self, now: Instant, window: Duration) {
        if matches!(self.warming, Warming::Waiting) && self.verdict() == Verdict::In {
            self.warming = Warming::Since(now);
        }
        self.tenths = match self.warming {
            Warming::Done => slow_start::WHOLE,
            Warming::Waiting => 1,
            Warming::Since(since) => slow_start::tenths(now - since, window),
        };
        if matches!(self.warming, Warming::Since(_)) && !self.is_cold() {
            self.warming = Warming::Done;
        }
    }

    /// When its share grows next.
    pub(super) fn warms_at(&self, now: Instant, window: Duration) -> Option<Instant> {
        let Warming::Since(since) = self.warming else { return None };
        Some(since + slow_start::next_step(now - since, window)?)
    }

    /// Whether it may be in a moment: nothing speaks against it yet.
    pub(super) fn is_settling(&self) -> bool {
        let fresh = matches!(self.subchannel.state, State::Idle | State::Connecting);
        (fresh && self.subchannel.cause.is_none())
            || (self.is_connected() && self.subchannel.watch == Watch::Unknown)
    }

    /// Offers a call to it while it is on probation, one at a time.
    pub(super) fn offer(&mut self, rules: &Arc<Rules>) -> Option<Arc<Offer>> {
        if self.verdict() != Verdict::Probe {
            // One that nobody has taken is withdrawn; of the other the end
            // is waited for.
            self.offer.take_if(|_| self.probed.is_none());
            return None;
        }
        if self.offer.is_none() {
            let connection = self.subchannel.connections().next()?;
            self.offer = Some(Arc::new(Offer::new(Probe::new(rules.clone()), connection)));
        }
        self.offer.clone()
    }

    /// What is told of it. `used`: whom calls go to now.
    pub(super) fn known(&self, used: Option<Preference>) -> Known {
        let verdict = self.verdict();
        let ready = verdict.preference().is_some_and(|preference| used == Some(preference));
        let by = match verdict {
            Verdict::In => None,
            Verdict::LastResort(by) | Verdict::Out(by) => Some(by),
            Verdict::Probe => Some(By::Outlier),
        };
        let registry = match self.instance.health {
            _ if self.unlisted.is_some() => "unlisted",
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
            Health::Maintenance => "maintenance",
        };
        let state = InstanceState {
            id: self.instance.id.to_string(),
            address: self.instance.address.to_string(),
            ready,
            why: by.map_or_else(String::new, |by| self.words(by)),
            decided_by: by.filter(|_| !ready).map(By::name),
            registry,
            watch: self.subchannel.watch.name(),
            connection: match self.is_connected() {
                true => State::Ready.name(),
                false => self.subchannel.state.name(),
            },
            connections: self.subchannel.connections().count(),
            in_flight: 0,
            weight: self.instance.weight,
            ejections: self.standing.ejections(),
        };
        let hold = self.damping.hold().filter(|_| by == Some(By::Damping));
        Known { state, load: self.load.clone(), hold }
    }

    /// Why it takes no calls.
    pub(super) fn cause(&self) -> Arc<str> {
        match self.verdict() {
            Verdict::In => "nothing speaks against it".into(),
            Verdict::LastResort(by) | Verdict::Out(by) => self.words(by).into(),
            Verdict::Probe => self.words(By::Outlier).into(),
        }
    }

    /// What `by` says against it.
    fn words(&self, by: By) -> String {
        match by {
            By::Registry => format!("{:?} in the registry: {}", self.instance.health, self.instance.reason),
            By::Watch if self.subchannel.watch == Watch::Unknown => {
                "its health service is being asked".into()
            }
            By::Watch => match self.health.as_ref().map(|query| &*query.service) {
                None | Some("") => "its health service says that it does not serve".into(),
                Some(name) => {
                    format!("its health service says that `{name}` does not serve, or does not know it")
                }
            },
            By::Connection => {
                self.subchannel.cause.as_deref().unwrap_or("it is still being connected to").into()
            }
            By::Outlier => self.standing.why().unwrap_or_default(),
            By::Damping => self.damping.hold().map(|hold| hold.to_string()).unwrap_or_default(),
        }
    }
}
