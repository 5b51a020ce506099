//! What a server knows of itself, for whoever looks into a process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{
    Drain, ServerHealth,
    admission::Admission,
    peers::{Peers, Resource},
};
use crate::consul::RegistrationState;

/// One server, as `/debug/mesh` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerState {
    /// The name that it registers under.
    pub service: String,
    /// The version that it registers with.
    pub version: String,
    /// Where it listens.
    pub listens: String,
    /// What it says of its health as a whole.
    pub serving: bool,
    /// True if each of its services says that it can do its work, by full name.
    pub services: BTreeMap<String, bool>,
    /// True if it has stopped taking calls.
    pub draining: bool,
    /// True if the registry knows it: `registered`, or why not, in words;
    /// `None` when it does not register.
    pub registration: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Calls that have begun and whose response was not taken whole.
    pub streams: usize,
    /// Bytes of messages that are held for peers: see
    /// [`ServerConfig::max_buffered_bytes`](crate::ServerConfig::max_buffered_bytes).
    pub buffered_bytes: usize,
    /// How much each method has to do; empty without admission.
    pub admission: Vec<MethodState>,
}

/// One method's admission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MethodState {
    /// Its full name, or what shares a limit.
    pub method: String,
    /// The most calls that may be under way now.
    pub limit: usize,
    /// Calls under way.
    pub under_way: usize,
    /// Calls that wait to be let in.
    pub waiting: usize,
    /// Calls refused since the start.
    pub refused: u64,
    /// What a call has taken of late, in microseconds; `None` before the first.
    pub latency_us: Option<u64>,
}

/// What a [`ServerState`] is made of; lives as long as the server.
#[derive(Debug)]
pub(crate) struct ServerHandle {
    pub(super) health: ServerHealth,
    pub(super) drain: Drain,
    pub(super) running: OnceLock<Running>,
}

/// What there is once a server runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) service: String,
    pub(super) version: String,
    pub(super) bound: SocketAddr,
    pub(super) registration: Option<watch::Receiver<RegistrationState>>,
    pub(super) connections: TaskTracker,
    pub(super) peers: Arc<Peers>,
    pub(super) admission: Admission,
}

impl ServerHandle {
    pub(super) fn new(health: ServerHealth, drain: Drain) -> Arc<Self> {
        Arc::new(Self { health, drain, running: OnceLock::new() })
    }

    /// The server's state; `None` before it runs.
    pub(crate) fn state(&self) -> Option<ServerState> {
        let Running { service, version, bound, registration, connections, peers, admission } =
            self.running.get()?;
        let registration = registration.as_ref().map(|state| match &*state.borrow() {
            RegistrationState::Registered => "registered".to_owned(),
            RegistrationState::Pending { why } => why.to_string(),
        });
        Some(ServerState {
            service: service.clone(),
            version: version.clone(),
            listens: bound.to_string(),
            serving: self.health.is_serving(),
            services: self.health.services(),
            draining: self.drain.is_draining(),
            registration,
            connections: connections.len(),
            streams: peers.held(Resource::Streams),
            buffered_bytes: peers.held(Resource::Bytes),
            admission: admission.state(),
        })
    }
}
