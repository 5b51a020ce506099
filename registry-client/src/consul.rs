//! Consul: a thin client, and registration and discovery on top of it.
//!
//! [`Client`] sends requests to one agent: typed responses, typed errors, no
//! redirects, everything bounded. On top of it are [`ConsulResolver`], which
//! watches the instances of a service, and [`Registration`], which keeps an
//! instance registered. All watches use one engine, which implements the rules
//! of Consul's blocking queries.
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
mod features;
mod http;
mod kv;
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
    http::{HttpCall, HttpResponse, Transport},
    scope::Scope,
    watch::cursor::Cursor,
};

/// A client of one Consul agent. Cheap to clone; clones share connections
/// and watches.
///
/// Methods do not retry, except that a GET that failed on a pooled connection
/// is sent once more, and that a denied request is sent once more when the
/// token file has a new token.
///
/// # Cancel safety
/// Dropping a future closes its connection. A write may have happened
/// nevertheless.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// True if each request uses a new connection.
    on_new_connections: bool,
}

struct Inner {
    transport: Transport,
    scope: Scope,
    watches: resolver::RunningWatches,
    omitted_features: features::OmittedFeatures,
}

impl Client {
    /// A client with the settings of the environment, by the names of Consul's
    /// own command line: `CONSUL_HTTP_ADDR` (`127.0.0.1:8500` unless set),
    /// `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE`, `CONSUL_HTTP_AUTH`,
    /// `CONSUL_HTTP_SSL`, `CONSUL_HTTP_SSL_VERIFY`, `CONSUL_CACERT`,
    /// `CONSUL_CAPATH`, `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY`,
    /// `CONSUL_TLS_SERVER_NAME`, `CONSUL_NAMESPACE`, `CONSUL_PARTITION`.
    /// `CONSUL_GRPC_ADDR` has no effect: that port is not used.
    ///
    /// # Errors
    /// [`Error::Config`] when one of them is invalid or names a file that
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
        let (watches, omitted_features) =
            (resolver::RunningWatches::default(), features::OmittedFeatures::default());
        let inner = Inner { transport, scope, watches, omitted_features };
        Self { inner: Arc::new(inner), on_new_connections: false }
    }

    /// The address of the agent, as given.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.inner.transport.endpoint.shown
    }

    /// The address of the agent, for errors.
    fn shown_addr(&self) -> Arc<str> {
        self.inner.transport.addr()
    }

    /// Returns whether the agent runs on this machine.
    fn is_local(&self) -> bool {
        self.inner.transport.endpoint.is_local()
    }

    /// A clone that uses a new connection for each request, so that a balancer
    /// chooses an agent each time.
    fn on_new_connections(&self) -> Self {
        Self { on_new_connections: true, ..self.clone() }
    }

    async fn send(&self, call: HttpCall) -> Result<HttpResponse, Error> {
        let mut call = self.inner.scope.apply(&self.inner.transport, call).await?;
        call.closes_connection = self.on_new_connections;
        self.inner.transport.send(&call).await
    }

    /// Sends a blocking query from `cursor`, which waits at most `wait`.
    async fn wait(&self, call: &HttpCall, cursor: &Cursor, wait: Duration) -> Result<HttpResponse, Error> {
        let call = self.inner.scope.apply(&self.inner.transport, call.clone()).await?;
        self.inner.transport.wait(&call, cursor, wait).await
    }

    /// Sends a request and decodes the JSON of the response.
    async fn fetch<T: for<'a> Deserialize<'a>>(&self, call: HttpCall) -> Result<T, Error> {
        let response = self.send(call.clone()).await?;
        self.decode(&call, &response)
    }

    /// Sends a request without a response body.
    async fn execute(&self, call: HttpCall) -> Result<(), Error> {
        let path = call.path.clone();
        let response = self.send(call).await?;
        if response.found {
            Ok(())
        } else {
            Err(Error::NotFound { path, message: error::excerpt(&response.body) })
        }
    }

    fn decode<'a, T: Deserialize<'a>>(
        &self,
        call: &HttpCall,
        response: &'a HttpResponse,
    ) -> Result<T, Error> {
        version::decode(&self.inner.transport, call, response)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("transport", &self.inner.transport).finish_non_exhaustive()
    }
}
