//! The view of a pool that calls read; replaced as a whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use super::super::{connection::Connection, no_instance::NoInstance};
use crate::{
    balance::{Load, ReadySet},
    health::{Hold, Probe},
    telemetry::InstanceState,
};

/// The newest [`Snapshot`], and a notification of changes.
#[derive(Debug)]
pub(in super::super) struct View {
    snapshot: ArcSwap<Snapshot>,
    /// Wakes waiting calls in the order of their arrival.
    changed: Arc<Notify>,
}

/// The ready set with its connections.
#[derive(Debug)]
pub(in super::super) struct Snapshot {
    pub(in super::super) ready: ReadySet,
    /// The connections of each candidate of `ready`, in the same order.
    pub(super) connections: Box<[Connections]>,
    /// The probe slots of ejected instances.
    pub(super) probe_slots: Box<[Arc<ProbeSlot>]>,
    /// The reason for which `ready` is empty, when it is.
    pub(in super::super) no_instance: NoInstance,
    /// Every instance of the pool, ready or not.
    pub(in super::super) instances: Box<[InstanceSnapshot]>,
    /// The error of the last look-up, if it failed.
    pub(in super::super) resolver_error: Option<Arc<str>>,
}

/// The connections to one instance. The first is used until it is at capacity.
#[derive(Debug)]
pub(in super::super) struct Connections {
    pub(in super::super) first: Arc<Connection>,
    pub(in super::super) more: Box<[Arc<Connection>]>,
    /// Notified when all are at capacity and another is needed.
    pub(in super::super) all_full: Arc<Notify>,
}

/// An instance as [`Channel::state`](crate::Channel::state) reports it.
#[derive(Debug)]
pub(in super::super) struct InstanceSnapshot {
    pub(super) state: InstanceState,
    pub(super) load: Arc<Load>,
    /// The hold, if that is what keeps the instance out.
    pub(super) hold: Option<Hold>,
}

/// A connection to an ejected instance, for the one call that probes it.
#[derive(Debug)]
pub(super) struct ProbeSlot {
    pub(super) probe: Arc<Probe>,
    /// The creation time.
    pub(super) since: Instant,
    connection: ArcSwapOption<Connection>,
}

impl View {
    pub(in super::super) fn new() -> Self {
        let nothing = Snapshot {
            ready: ReadySet::default(),
            connections: Box::default(),
            probe_slots: Box::default(),
            no_instance: NoInstance::NeverResolved(None),
            instances: Box::default(),
            resolver_error: None,
        };
        Self { snapshot: ArcSwap::from_pointee(nothing), changed: Arc::default() }
    }

    pub(in super::super) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Completes at the first change from now on.
    pub(in super::super) fn changes(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.changed.notify_waiters();
    }
}

impl Snapshot {
    /// A connection to the candidate of `ready` at `index`; at capacity only if
    /// all of its connections are.
    pub(in super::super) fn connection(&self, index: usize) -> Option<Arc<Connection>> {
        let connections = self.connections.get(index)?;
        Some(if connections.first.has_capacity() {
            connections.first.clone()
        } else {
            connections.least_loaded()
        })
    }

    /// A connection to an ejected instance that needs a probe; only one call
    /// gets it. Called for each call's first attempt, before the picker; nearly
    /// always there is none.
    pub(in super::super) fn probe(&self) -> Option<Arc<Connection>> {
        self.probe_slots.iter().find_map(|probe_slot| probe_slot.claim())
    }
}

impl Connections {
    /// A connection with capacity; else the one with the fewest streams, and
    /// another connection is requested.
    #[cold]
    fn least_loaded(&self) -> Arc<Connection> {
        let all = || std::iter::once(&self.first).chain(&self.more);
        if let Some(free) = all().find(|connection| connection.refresh_capacity()) {
            return free.clone();
        }
        self.all_full.notify_one();
        let fewest = all().min_by_key(|connection| connection.streams().open());
        fewest.unwrap_or(&self.first).clone()
    }
}

impl InstanceSnapshot {
    pub(in super::super) fn state(&self) -> InstanceState {
        let mut state = self.state.clone();
        state.in_flight = self.load.in_flight();
        // The time that is left of a hold depends on the time of reading.
        if let Some(hold) = self.hold {
            state.why = hold.reason(Instant::now());
        }
        state
    }
}

impl ProbeSlot {
    pub(super) fn new(probe: Probe, connection: &Connection) -> Self {
        let probe = Arc::new(probe);
        let connection = Arc::new(connection.with_probe(probe.clone()));
        Self { probe, since: Instant::now(), connection: ArcSwapOption::new(Some(connection)) }
    }

    pub(super) fn claim(&self) -> Option<Arc<Connection>> {
        // A load does not take the cache line from other cores, a swap does.
        self.connection.load().as_ref()?;
        let connection = self.connection.swap(None)?;
        self.probe.take();
        Some(connection)
    }
}
