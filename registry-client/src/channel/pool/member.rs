//! One instance of a pool, and what is kept about it across registry updates.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    super::subchannel::{State, Subchannel},
    view::{Known, Offer},
};
use crate::{
    balance::{Candidate, Load},
    health::{By, Probe, Record, Rules, Standing, Subject, Verdict, Watch, weigh},
    instance::{Health, Instance},
    telemetry::InstanceState,
};

pub(super) struct Member {
    pub(super) instance: Instance,
    pub(super) generation: u64,
    pub(super) load: Arc<Load>,
    pub(super) record: Arc<Record>,
    pub(super) standing: Standing,
    /// The one call that is let through to it on probation, and when it was
    /// seen to be under way.
    pub(super) offer: Option<Arc<Offer>>,
    pub(super) probed: Option<Instant>,
    pub(super) subchannel: Subchannel,
    /// Set while the registry does not list it: until when it is kept.
    pub(super) unlisted: Option<Instant>,
}

impl Member {
    pub(super) fn is_connected(&self) -> bool {
        self.subchannel.state == State::Ready
    }

    pub(super) fn verdict(&self) -> Verdict {
        let (connected, watch) = (self.is_connected(), self.subchannel.watch);
        weigh(self.instance.health, connected, watch, self.standing.phase())
    }

    pub(super) fn subject(&mut self) -> Subject<'_> {
        Subject { record: &self.record, standing: &mut self.standing }
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate { id: self.instance.id.clone(), weight: self.instance.weight, load: self.load.clone() }
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
            let connection = self.subchannel.connection.as_ref()?;
            self.offer = Some(Arc::new(Offer::new(Probe::new(rules.clone()), connection)));
        }
        self.offer.clone()
    }

    /// What is told of it. `panicking`: it is used as a last resort too.
    pub(super) fn known(&self, panicking: bool) -> Known {
        let (ready, by) = match self.verdict() {
            Verdict::In => (true, None),
            Verdict::LastResort(by) => (panicking, Some(by)),
            Verdict::Probe => (panicking, Some(By::Outlier)),
            Verdict::Out(by) => (false, Some(by)),
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
            connection: self.subchannel.state.name(),
            connections: usize::from(self.subchannel.connection.is_some()),
            in_flight: 0,
            weight: self.instance.weight,
            ejections: self.standing.ejections(),
        };
        Known { state, load: self.load.clone() }
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
            By::Watch => "its health service says that it does not serve".into(),
            By::Connection => {
                self.subchannel.cause.as_deref().unwrap_or("it is still being connected to").into()
            }
            By::Outlier => self.standing.why().unwrap_or_default(),
        }
    }
}
