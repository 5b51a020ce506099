//! The agent's whole state: what was registered here, the catalog made of it, and the key-value store.
//!
//! A real agent holds the first and its servers the rest, and a registration reaches the servers a moment later.
//! Here both live under one lock and every local change is written to the catalog at once, under the next index.

mod catalog;
mod kv;
mod local;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub(crate) use catalog::{Catalog, Indexed};
pub(crate) use kv::{Entry, Kv};
pub(crate) use local::{Local, LocalCheck, NewCheck};

use crate::model::Node;

/// How many services, and how many checks, one agent takes.
const MAX_REGISTERED: usize = 10_000;
/// How many keys one agent takes.
const MAX_KEYS: usize = 100_000;

/// There are as many of something as the agent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentFull {
    most: usize,
    of: &'static str,
}

impl fmt::Display for AgentFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this development agent holds {} {}, the most it takes", self.most, self.of)
    }
}

/// State that any number of requests and check tasks share.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    generation: watch::Sender<u64>,
}

impl Store {
    pub(crate) fn new(node: Node) -> Self {
        Self { state: Mutex::new(State::new(node)), generation: watch::Sender::new(0) }
    }

    /// Looks at the state; `look` must be quick, for nothing else moves meanwhile.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the state and wakes every query that waits for a change.
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.generation.send_modify(|generation| *generation += 1);
        result
    }

    /// Tells of every write from now on. Whoever waits looks again and decides whether it was worth waking.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside a closure is a bug of ours; the state it leaves is still the best there is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is known, and the index of its last change.
#[derive(Debug)]
pub(crate) struct State {
    index: u64,
    pub(crate) node: Node,
    pub(crate) local: Local,
    pub(crate) catalog: Catalog,
    pub(crate) kv: Kv,
}

impl State {
    fn new(node: Node) -> Self {
        // A fresh server has written its own records by then; clients must never see an index below 2.
        let index = 11;
        let catalog = Catalog::new(&node, index);
        Self { index, node, local: Local::default(), catalog, kv: Kv::default() }
    }

    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }
}
