//! What calls see of the pool; replaced as a whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use super::super::{connection::Connection, failure::NoInstance};
use crate::{
    balance::{Load, ReadySet},
    health::{Hold, Probe},
    telemetry::InstanceState,
};

/// Where the newest [`Snapshot`] is found.
#[derive(Debug)]
pub(in super::super) struct View {
    snapshot: ArcSwap<Snapshot>,
    /// Wakes whoever waits in the order in which they came.
    changed: Arc<Notify>,
}

/// The ready set with the connections behind it.
#[derive(Debug)]
pub(in super::super) struct Snapshot {
    pub(in super::super) ready: ReadySet,
    /// Those of each candidate of `ready`, in the same order.
    pub(super) lanes: Box<[Lanes]>,
    /// Ejected instances that one call each is let through to.
    pub(super) offers: Box<[Arc<Offer>]>,
    /// Why `ready` is empty, when it is.
    pub(in super::super) why: NoInstance,
    /// Every instance there is, ready or not.
    pub(in super::super) known: Box<[Known]>,
    /// Why the last look-up failed, if it did.
    pub(in super::super) resolver_error: Option<Arc<str>>,
}

/// The connections to one instance. The first is used until it is full.
#[derive(Debug)]
pub(in super::super) struct Lanes {
    pub(in super::super) first: Arc<Connection>,
    pub(in super::super) more: Box<[Arc<Connection>]>,
    /// Told when a further one is wanted.
    pub(in super::super) wanted: Arc<Notify>,
}

/// An instance, for whoever looks into the channel.
#[derive(Debug)]
pub(in super::super) struct Known {
    pub(super) state: InstanceState,
    pub(super) load: Arc<Load>,
    /// What keeps it out, if it is that.
    pub(super) hold: Option<Hold>,
}

/// A connection to an ejected instance, for the first call that comes.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) probe: Arc<Probe>,
    /// When it was made.
    pub(super) since: Instant,
    connection: ArcSwapOption<Connection>,
}

impl View {
    pub(in super::super) fn new() -> Self {
        let nothing = Snapshot {
            ready: ReadySet::default(),
            lanes: Box::default(),
            offers: Box::default(),
            why: NoInstance::NeverResolved(None),
            known: Box::default(),
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
    /// A connection to the candidate of `ready` at `index`; where all of its
    /// are full, one on which the call waits for its turn.
    pub(in super::super) fn connection(&self, index: usize) -> Option<Arc<Connection>> {
        let lanes = self.lanes.get(index)?;
        Some(if lanes.first.has_room() { lanes.first.clone() } else { lanes.roomy() })
    }

    /// A connection to an ejected instance that wants to be tried; only one
    /// call gets it. Asked for each call's first attempt, before the picker;
    /// nearly always there is none.
    pub(in super::super) fn probe(&self) -> Option<Arc<Connection>> {
        self.offers.iter().find_map(|offer| offer.claim())
    }
}

impl Lanes {
    /// One with room; else the one with the fewest calls, and a further one is
    /// asked for.
    #[cold]
    fn roomy(&self) -> Arc<Connection> {
        let all = || std::iter::once(&self.first).chain(&self.more);
        if let Some(free) = all().find(|connection| connection.look_for_room()) {
            return free.clone();
        }
        self.wanted.notify_one();
        let fewest = all().min_by_key(|connection| connection.streams().open());
        fewest.unwrap_or(&self.first).clone()
    }
}

impl Known {
    pub(in super::super) fn state(&self) -> InstanceState {
        let mut state = self.state.clone();
        state.in_flight = self.load.in_flight();
        // How much of it is left is known only now.
        if let Some(hold) = self.hold {
            state.why = hold.why(Instant::now());
        }
        state
    }
}

impl Offer {
    pub(super) fn new(probe: Probe, connection: &Connection) -> Self {
        let probe = Arc::new(probe);
        let connection = Arc::new(connection.probing(probe.clone()));
        Self { probe, since: Instant::now(), connection: ArcSwapOption::new(Some(connection)) }
    }

    pub(super) fn claim(&self) -> Option<Arc<Connection>> {
        // A look costs other cores nothing, a swap does.
        self.connection.load().as_ref()?;
        let connection = self.connection.swap(None)?;
        self.probe.take();
        Some(connection)
    }
}
