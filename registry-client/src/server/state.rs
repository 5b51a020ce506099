//! The state of servers, as the admin endpoint shows it.

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
    /// The registered name.
    pub service: String,
    /// The registered version.
    pub version: String,
    /// The address that it listens on.
    pub listens: String,
    /// True if the whole server serves.
    pub serving: bool,
    /// The reported states of the services, by full name.
    pub services: BTreeMap<String, bool>,
    /// True if the server drains.
    pub draining: bool,
    /// `registered`, or the reason for which the server is not registered;
    /// `None` without a registry.
    pub registration: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Calls whose response was not read completely.
    pub streams: usize,
    /// Bytes of messages that are buffered for peers: see
    /// [`ServerConfig::max_buffered_bytes`](crate::ServerConfig::max_buffered_bytes).
    pub buffered_bytes: usize,
    /// The load of each method; empty without admission control.
    pub admission: Vec<MethodState>,
}

/// The admission control of one method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MethodState {
    /// The full name of the method, or the name of a shared limit.
    pub method: String,
    /// The current concurrency limit.
    pub limit: usize,
    /// Calls in flight.
    pub under_way: usize,
    /// Calls in the queue.
    pub waiting: usize,
    /// Calls rejected since the start.
    pub refused: u64,
    /// The recent latency in microseconds; `None` before the first call.
    pub latency_us: Option<u64>,
}

/// The handle of a server, from which its [`ServerState`] is read.
#[derive(Debug)]
pub(crate) struct ServerHandle {
    pub(super) health: ServerHealth,
    pub(super) drain: Drain,
    pub(super) running: OnceLock<RunningServer>,
}

/// The state of a running server.
#[derive(Debug)]
pub(super) struct RunningServer {
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
        let RunningServer { service, version, bound, registration, connections, peers, admission } =
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
