//! Consul: a thin client, and what the mesh does with it.
//!
//! [`Client`] asks one agent: typed answers, typed errors, nothing followed,
//! nothing unbounded. On it stand [`ConsulResolver`], which tells the
//! instances of a service and every change of them, and [`Registration`],
//! which keeps an instance registered for as long as it lives. All reads that
//! follow something go through one watch engine, which knows the rules of
//! Consul's blocking queries.
//!
//! ```no_run
//! use registry_client::{
//!     consul::{CheckSpec, Client, ConsulResolver, Registration, ServiceSpec},
//!     resolve::Resolver,
//! };
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::from_env()?;
//!
//! // Registered from here on, until it is deregistered or dropped.
//! let address = "10.0.0.7:50051".parse()?;
//! let check = CheckSpec::grpc(&address, "");
//! let spec = ServiceSpec::new("cart-service".parse()?, address, check);
//! let registration = Registration::start(client.clone(), spec)?;
//!
//! // Every change of another service's instances.
//! let mut products = ConsulResolver::new(client).resolve(&"product-service".parse()?);
//! while products.changed().await.is_ok() {
//!     println!("{:?}", products.borrow_and_update().instances);
//! }
//!
//! registration.deregister().await?;
//! # Ok(())
//! # }
//! ```

mod agent;
mod catalog;
mod config;
mod connect;
mod duration;
mod endpoint;
mod error;
mod http;
mod kv;
mod newer;
mod path;
mod registration;
mod resolver;
mod scope;
mod spec;
mod tls;
mod token;
mod version;
mod watch;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

use serde::Deserialize;

#[cfg(feature = "fuzzing")]
pub use self::resolver::fuzz_health;
pub(crate) use self::spec::MAX_THRESHOLD;
pub use self::{
    agent::advertise_address,
    catalog::HealthQuery,
    config::ClientBuilder,
    duration::GoDuration,
    error::{Error, TokenState},
    kv::KvPair,
    registration::{Registration, RegistrationState},
    resolver::{ConsulResolver, Discovery},
    spec::{CheckSpec, ServiceSpec, Weights, instance_id},
    version::Version,
    watch::View,
    wire::{
        AgentConfig, AgentSelf, AgentService, Check, CheckStatus, HealthEntry, Node, TaggedAddress,
        WireWeights,
    },
};
use self::{
    http::{Answer, Call, Transport},
    scope::Scope,
    watch::cursor::Cursor,
};

/// A client of one Consul agent. Cheap to clone; clones share connections
/// and watches.
///
/// Every method asks once and says what came of it; none retries, except that
/// a GET on a connection that died while pooled is sent once more, and that a
/// refused request is sent once more when the token file holds a new token.
///
/// # Cancel safety
/// Dropping any of its futures closes the connection it waits on. A write may
/// have happened nevertheless.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// True if each request goes out on a connection of its own.
    on_new_connections: bool,
}

struct Inner {
    transport: Transport,
    scope: Scope,
    shared: resolver::Shared,
    left_out: newer::LeftOut,
}

impl Client {
    /// A client as the environment says, by the names of Consul's own command
    /// line: `CONSUL_HTTP_ADDR` (`127.0.0.1:8500` unless set),
    /// `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE`, `CONSUL_HTTP_AUTH`,
    /// `CONSUL_HTTP_SSL`, `CONSUL_HTTP_SSL_VERIFY`, `CONSUL_CACERT`,
    /// `CONSUL_CAPATH`, `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY`,
    /// `CONSUL_TLS_SERVER_NAME`, `CONSUL_NAMESPACE`, `CONSUL_PARTITION`.
    /// `CONSUL_GRPC_ADDR` has no meaning here: nothing is asked on that port.
    ///
    /// # Errors
    /// [`Error::Config`] when one of them means nothing or names a file that
    /// cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        ClientBuilder::from_env()?.build()
    }

    /// A client of the agent at `addr` (`host:port`, `http://…`, `https://…`
    /// or `unix:///path`) that ignores the environment.
    pub fn builder(addr: &str) -> ClientBuilder {
        ClientBuilder::new(addr)
    }

    fn of(transport: Transport, scope: Scope) -> Self {
        let (shared, left_out) = (resolver::Shared::default(), newer::LeftOut::default());
        let inner = Inner { transport, scope, shared, left_out };
        Self { inner: Arc::new(inner), on_new_connections: false }
    }

    /// The agent's address as it was given.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.inner.transport.endpoint.shown
    }

    /// The address, for an error.
    fn shown(&self) -> Arc<str> {
        self.inner.transport.addr()
    }

    /// Returns whether the agent runs on this machine.
    fn is_local(&self) -> bool {
        self.inner.transport.endpoint.is_local()
    }

    /// The same client, whose requests are answered by whichever agent a
    /// balancer chooses next.
    fn on_new_connections(&self) -> Self {
        Self { on_new_connections: true, ..self.clone() }
    }

    async fn send(&self, call: Call) -> Result<Answer, Error> {
        let mut call = self.inner.scope.apply(&self.inner.transport, call).await?;
        call.last_on_its_connection = self.on_new_connections;
        self.inner.transport.send(&call).await
    }

    /// Asks for what comes after `cursor`, for at most `wait`.
    async fn wait(&self, call: &Call, cursor: &Cursor, wait: Duration) -> Result<Answer, Error> {
        let call = self.inner.scope.apply(&self.inner.transport, call.clone()).await?;
        self.inner.transport.wait(&call, cursor, wait).await
    }

    /// Asks, and reads the JSON of the response.
    async fn fetch<T: for<'a> Deserialize<'a>>(&self, call: Call) -> Result<T, Error> {
        let answer = self.send(call.clone()).await?;
        self.decode(&call, &answer)
    }

    /// Asks for something to be done.
    async fn order(&self, call: Call) -> Result<(), Error> {
        let path = call.path.clone();
        let answer = self.send(call).await?;
        if answer.found { Ok(()) } else { Err(Error::NotFound { path, said: error::said(&answer.body) }) }
    }

    fn decode<'a, T: Deserialize<'a>>(&self, call: &Call, answer: &'a Answer) -> Result<T, Error> {
        version::decode(&self.inner.transport, call, answer)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("transport", &self.inner.transport).finish_non_exhaustive()
    }
}
