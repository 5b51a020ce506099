//! The agent's whole state: the registrations, the catalog made of them, and the key-value store.
//!
//! A real agent holds the first and its servers the rest, and a registration reaches the servers a moment later.
//! Here both are under one lock, and every local change is written to the catalog immediately, under the next
//! index.

mod catalog;
mod kv;
mod local;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub(crate) use catalog::{Catalog, Indexed};
pub(crate) use kv::{Entry, Kv};
pub(crate) use local::{LocalCheck, LocalState, NewCheck};

use crate::model::Node;

/// The limit on services, and on checks, of an agent.
const MAX_REGISTERED: usize = 10_000;
/// The limit on keys of an agent.
const MAX_KEYS: usize = 100_000;

/// The error when a limit of the agent is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapacityExceeded {
    max: usize,
    resource: &'static str,
}

impl fmt::Display for CapacityExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this development agent holds {} {}, which is its limit", self.max, self.resource)
    }
}

/// The state that requests and check tasks share.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<AgentState>,
    generation: watch::Sender<u64>,
}

impl Store {
    pub(crate) fn new(node: Node) -> Self {
        Self { state: Mutex::new(AgentState::new(node)), generation: watch::Sender::new(0) }
    }

    /// Reads the state under the lock; `read_state` must be quick.
    pub(crate) fn read<R>(&self, read_state: impl FnOnce(&AgentState) -> R) -> R {
        read_state(&self.lock())
    }

    /// Changes the state and wakes every query that waits for a change.
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut AgentState) -> R) -> R {
        let result = change(&mut self.lock());
        self.generation.send_modify(|generation| *generation += 1);
        result
    }

    /// Returns a receiver that is notified of every write. A waiting query then checks whether its result
    /// changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, AgentState> {
        // A panic inside a closure is a bug; the state is still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole state, and the index of its last change.
#[derive(Debug)]
pub(crate) struct AgentState {
    index: u64,
    pub(crate) node: Node,
    pub(crate) local: LocalState,
    pub(crate) catalog: Catalog,
    pub(crate) kv: Kv,
}

impl AgentState {
    fn new(node: Node) -> Self {
        // A new server has written its own records by then; clients must never see an index below 2.
        let index = 11;
        let catalog = Catalog::new(&node, index);
        Self { index, node, local: LocalState::default(), catalog, kv: Kv::default() }
    }

    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }
}
