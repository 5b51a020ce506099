//! A Consul-compatible agent that runs inside a process, for development and tests.
//!
//! It serves the part of Consul's HTTP API that discovery needs: registration with TTL, gRPC and TCP checks, health
//! and catalog reads with blocking queries, maintenance, and the key-value store. Status codes, headers, bodies and
//! error texts are those of Consul 1.22.5, and one conformance suite checks both against the same responses.
//!
//! **It is not for production.** It keeps everything in memory, knows one node, no access control, no TLS and no
//! other agent. It responds with 404 to paths that it does not serve, as a real agent does to unknown ones; a
//! registration with unsupported parts (a sidecar, an HTTP or script check, a check over TLS, a session's lock) is
//! rejected with an error, never partly applied.
//!
//! Where a real agent's behaviour depends on its internals, this one follows the documented rule: a query wakes only
//! for the records that it watches (a real agent also for neighbours in its tree), a check that changes its type
//! loses its old probe (a real agent runs both), and a cancelled query releases its connection immediately.
//!
//! ```
//! # async fn run() -> std::io::Result<()> {
//! use consul_dev::{Agent, Options};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let agent = Agent::start(listener, Options::default())?;
//! println!("CONSUL_HTTP_ADDR={}", agent.url());
//! agent.stop().await;
//! # Ok(())
//! # }
//! ```

mod agent;
mod blocking;
mod catalog;
mod checks;
mod context;
mod decode;
mod duration;
mod filter;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod kv;
mod model;
mod probe;
mod request;
mod response;
mod router;
mod server;
mod store;
mod ui;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::context::Context;
use crate::model::Node;
use crate::probe::TaskGuard;
use crate::store::Store;

/// The interval between two searches for services that have been critical for too long; Consul's own.
const REAP_INTERVAL: Duration = Duration::from_secs(30);

/// The settings of an agent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The name of its one node; `consort-dev` unless set.
    pub node_name: String,
    /// The name of its datacenter; `dc1` unless set, as Consul's own default.
    pub datacenter: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { node_name: "consort-dev".into(), datacenter: "dc1".into() }
    }
}

impl Options {
    /// Sets the node name.
    #[must_use]
    pub fn node_name(self, node_name: impl Into<String>) -> Self {
        Self { node_name: node_name.into(), ..self }
    }

    /// Sets the datacenter.
    #[must_use]
    pub fn datacenter(self, datacenter: impl Into<String>) -> Self {
        Self { datacenter: datacenter.into(), ..self }
    }
}

/// A running agent. Dropping it closes its connections, ends its checks and discards its state.
#[derive(Debug)]
pub struct Agent {
    addr: SocketAddr,
    server: JoinHandle<()>,
    store: Arc<Store>,
    _reaper: TaskGuard,
}

impl Agent {
    /// Starts an agent on `listener`.
    ///
    /// # Errors
    /// When the listener's address cannot be read.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let node = Node {
            id: uuid::Uuid::new_v4().to_string(),
            name: options.node_name,
            datacenter: options.datacenter,
            address: addr.ip().to_string(),
            port: addr.port(),
        };
        warn!(
            %addr, node = %node.name, consul_version = model::CONSUL_VERSION,
            "a development agent with Consul's API is listening on {addr}: it keeps its state in memory only and is not for production"
        );
        let store = Arc::new(Store::new(node.clone()));
        let context = Arc::new(Context { store: Arc::clone(&store), node });
        let server = tokio::spawn(server::serve(listener, context));
        let reaper = TaskGuard::spawn(reap(Arc::downgrade(&store)));
        Ok(Self { addr, server, store, _reaper: reaper })
    }

    /// Binds `addr` (port 0 takes any that is free) and starts an agent there.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(addr: SocketAddr, options: Options) -> io::Result<Self> {
        Self::start(TcpListener::bind(addr).await?, options)
    }

    /// The address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL of its API without a final slash, in the form of
    /// `CONSUL_HTTP_ADDR`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops the agent and waits until its address is free again.
    ///
    /// # Cancel safety
    /// The agent stops even if the future is dropped.
    pub async fn stop(mut self) {
        self.server.abort();
        // The task was aborted, so it ends with a cancellation error.
        let _ = (&mut self.server).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
        // The checks' tasks end with the checks.
        self.store.write(|state| state.local = store::LocalState::default());
    }
}

/// Removes services that have been critical for longer than they allow.
async fn reap(store: std::sync::Weak<Store>) {
    loop {
        tokio::time::sleep(REAP_INTERVAL).await;
        let Some(store) = store.upgrade() else { return };
        for id in store.read(store::AgentState::services_to_reap) {
            info!(service = %id, "deregistering a service that has been critical for longer than it allows");
            store.write(|state| state.remove_service(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::{CheckSpec, set_status, start_probe};
    use crate::model::{Check, CheckStatus, Service};
    use crate::store::NewCheck;

    fn store() -> Arc<Store> {
        Arc::new(Store::new(Node {
            id: "n".into(),
            name: "n".into(),
            datacenter: "dc1".into(),
            address: "127.0.0.1".into(),
            port: 1,
        }))
    }

    fn register(store: &Arc<Store>, id: &str, reap_after: Duration) {
        let spec = CheckSpec { ttl: "1h".parse().unwrap(), ..CheckSpec::default() };
        let check =
            Check { id: id.into(), service_id: id.into(), service_name: id.into(), ..Check::default() };
        let probe = Some(start_probe(store, id, &spec));
        let service = Service { id: id.into(), name: id.into(), ..Service::default() };
        let checks = vec![NewCheck { check, reap_after: Some(reap_after), probe }];
        store.write(|state| state.register_service(service, checks, false)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_critical_for_longer_than_it_allows_is_removed() {
        let store = store();
        let reaper = TaskGuard::spawn(reap(Arc::downgrade(&store)));
        register(&store, "dead", Duration::from_secs(60));
        register(&store, "revived", Duration::from_secs(60));
        let registered = || store.read(|state| state.local.services.keys().cloned().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_secs(50)).await;
        set_status(&store, "revived", CheckStatus::Passing, String::new());
        set_status(&store, "revived", CheckStatus::Critical, String::new());
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(registered(), ["dead", "revived"]);
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert_eq!(registered(), ["revived"], "its time began anew");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(registered().is_empty());
        drop(reaper);
    }

    #[tokio::test(start_paused = true)]
    async fn output_alone_reaches_the_catalog_after_some_minutes() {
        let store = store();
        register(&store, "quiet", Duration::from_secs(3600));
        set_status(&store, "quiet", CheckStatus::Critical, "news".into());
        let output = || {
            store.read(|state| {
                let mut checks = state.catalog.checks().map(|check| check.value.clone());
                checks.find(|check| check.id == "quiet").map(|check| check.output)
            })
        };
        tokio::time::sleep(Duration::from_secs(140)).await;
        assert_eq!(output().as_deref(), Some(""));
        tokio::time::sleep(Duration::from_secs(330)).await;
        assert_eq!(output().as_deref(), Some("news"));
    }

    #[tokio::test]
    async fn a_stopped_agent_gives_its_address_back_and_ends_blocked_queries() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let agent = Agent::bind(([127, 0, 0, 1], 0).into(), Options::default()).await.unwrap();
        let addr = agent.addr();
        let mut blocked = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = b"GET /v1/catalog/services?index=100000&wait=10m HTTP/1.1\r\nHost: x\r\n\r\n";
        blocked.write_all(request).await.unwrap();
        let mut probe = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        agent.stop().await;
        let ended = blocked.read_to_string(&mut String::new()).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        Agent::bind(addr, Options::default()).await.unwrap();
    }

    #[tokio::test]
    async fn mute_and_slow_connections_do_not_block_others_and_are_closed() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let agent = Agent::bind(([127, 0, 0, 1], 0).into(), Options::default()).await.unwrap();
        let mut held = Vec::new();
        for n in 0..300 {
            let mut stream = tokio::net::TcpStream::connect(agent.addr()).await.unwrap();
            // Every other one has begun a request; the agent may have closed it already.
            let begun: &[u8] = if n % 2 == 0 { b"" } else { b"GET / HTTP/1.1\r\nHost: " };
            let _ = stream.write_all(begun).await;
            held.push(stream);
        }
        let mut probe = tokio::net::TcpStream::connect(agent.addr()).await.unwrap();
        let request = b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let closed = async {
            for mut stream in held {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap();
    }
}
