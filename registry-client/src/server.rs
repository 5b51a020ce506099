//! A tonic server that registers itself, tells its health and drains.
//!
//! From start to stop:
//!
//! 1. The listener is bound already; the health is `NOT_SERVING`.
//! 2. The instance registers, and stays registered whatever happens to the
//!    registry. A registry that cannot be reached never keeps the server from
//!    serving.
//! 3. Connections are taken in; the health is SERVING.
//! 4. The stop signal comes: the health is `NOT_SERVING`, which is pushed to
//!    every open `Watch`, and the registry shows the instance in maintenance.
//!    Calls are still taken until everyone has had time to hear of it
//!    ([`ServerConfig::drain`]).
//! 5. The listener closes and every connection gets GOAWAY. Calls under way
//!    finish, or are cut off after [`ServerConfig::drain_timeout`].
//! 6. The instance deregisters.
//!
//! An `:authority` that HTTP/2 does not take, such as the list of addresses
//! that gRPC core sends for a target `ipv4:10.0.0.1:50051,10.0.0.2:50051`, is
//! corrected before it is read, and means nothing. Where that cannot be done,
//! which is logged once, the caller sets another: in gRPC core's languages by
//! the channel option `grpc.default_authority`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tower_service::Service;
use tracing::{info, warn};

use crate::{
    Error, ServerConfig,
    consul::Client,
    instance::{Locality, ParseError, ServiceName},
    mesh::Shared,
};

mod accept;
mod address;
mod admission;
mod age;
mod authority;
mod connection;
mod content_type;
mod deadline;
mod described;
mod drain;
mod gzip;
mod health;
mod listing;
mod panic;
mod peers;
mod quiet;
mod receive;
mod reflection;
mod screen;
mod signal;
mod socket;
mod state;

#[cfg(feature = "fuzzing")]
pub use authority::fuzz_http2_head;
pub use drain::Drain;
pub use health::ServerHealth;
pub use signal::{hangup, shutdown_signal};
pub use state::{MethodState, ServerState};

pub(crate) use state::ServerHandle;

use accept::Acceptor;
use admission::Admission;
use connection::Connections;
use gzip::Gzip;
use listing::{Listing, Wanted};
use peers::{Limits, Peers};
use receive::Receive;
use screen::{Screen, Served};
use state::Running;

/// A server of one registered service, made by
/// [`Mesh::serve`](crate::Mesh::serve). Answers `grpc.health.v1` and
/// `grpc.reflection` (v1 and v1alpha) besides the services it is given.
#[derive(Debug)]
#[must_use = "a server does nothing until it is run"]
pub struct Server {
    name: Result<ServiceName, ParseError>,
    registry: Option<Client>,
    config: ServerConfig,
    descriptors: Vec<&'static [u8]>,
    routes: RoutesBuilder,
    served: Vec<&'static str>,
    added_twice: Option<&'static str>,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    /// These two win over `config`.
    weight: Option<u16>,
    locality: Option<Result<Locality, ParseError>>,
    handle: Arc<ServerHandle>,
    mesh: Weak<Shared>,
}

impl Server {
    pub(crate) fn new(
        name: Result<ServiceName, ParseError>,
        registry: Option<Client>,
        config: ServerConfig,
        descriptors: Vec<&'static [u8]>,
        mesh: Weak<Shared>,
    ) -> Self {
        let meta = [("protocol", "grpc"), ("version", "unknown")];
        Self {
            name,
            registry,
            config,
            descriptors,
            routes: RoutesBuilder::default(),
            served: Vec::new(),
            added_twice: None,
            tags: vec!["grpc".to_owned()],
            meta: meta.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            weight: None,
            locality: None,
            handle: ServerHandle::new(ServerHealth::new(), Drain::new()),
            mesh,
        }
    }

    /// Serves `service`, one that tonic generates, under its full name. A
    /// request message above 4 MiB is refused unless the service is made with
    /// another `max_decoding_message_size`.
    pub fn add_service<S, R>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<R>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if self.served.contains(&S::NAME) || BUILT_IN.contains(&S::NAME) {
            self.added_twice = Some(S::NAME);
            return self;
        }
        self.served.push(S::NAME);
        self.handle.health.report(S::NAME, true);
        self.routes.add_service(service);
        self
    }

    /// Describes services to reflection: an encoded
    /// `google.protobuf.FileDescriptorSet`, beside those that the mesh was
    /// built with.
    pub fn descriptors(mut self, set: &'static [u8]) -> Self {
        self.descriptors.push(set);
        self
    }

    /// Replaces how this server serves; unless called, as the mesh was told.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Labels the registered instance, beside the tag `grpc`.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds a pair to the registered instance, beside `protocol`, which is
    /// `grpc`, and `version`.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// The version that the registered instance shows, and by which traffic can
    /// be split; `unknown` unless set.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.meta("version", version)
    }

    /// Registers the instance for this share of the load, 1 or more, whatever
    /// [`ServerConfig::weight`] is.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Registers the instance as running in this region, and in this zone of it
    /// unless `zone` is empty, whatever [`ServerConfig::locality`] is.
    pub fn locality(mut self, region: &str, zone: &str) -> Self {
        self.locality = Some(Locality::new(region, zone));
        self
    }

    /// A handle to say that a service cannot do its work for now.
    #[must_use]
    pub fn health(&self) -> ServerHealth {
        self.handle.health.clone()
    }

    /// A handle that tells services when to end streams that would go on for
    /// ever.
    #[must_use]
    pub fn drain_signal(&self) -> Drain {
        self.handle.drain.clone()
    }

    /// What tells of this server for as long as it is there.
    pub(crate) fn handle(&self) -> Weak<ServerHandle> {
        Arc::downgrade(&self.handle)
    }

    /// Serves on `listener`, registered, until `shutdown` completes; then stops
    /// as the [module](self) says, and returns once nothing is left running.
    /// Within a tokio runtime.
    ///
    /// # Errors
    /// Before anything is served: when the service's name, its tags, meta,
    /// weight, locality or descriptors cannot be used, or a service was added
    /// twice.
    ///
    /// # Cancel safety
    /// Dropping it closes every connection and stops looking after the
    /// registration, which stays as it is.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let bound = listener.local_addr().map_err(Error::Listener)?;
        let name = self.name.clone().map_err(|why| Error::Config(why.to_string()))?;
        let (registry, config) = (self.registry.clone(), self.settled_config()?);
        let handle = self.handle.clone();
        let (health, drain) = (handle.health.clone(), handle.drain.clone());
        health.set_registered(name.as_str());
        let metrics = self.mesh.upgrade().and_then(|mesh| mesh.metrics_address());
        let wanted = Wanted { name: name.clone(), tags: self.tags.clone(), meta: self.meta.clone(), metrics };

        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let admission = config.admission.as_ref();
        let admission = Admission::new(admission, name.as_str(), &self.served, &self.descriptors)?;
        let served = Arc::new(self.described()?);
        let screened = Screen::new(self.routes()?.prepare(), served.clone());
        let admitted = admission.clone().before(Gzip::new(screened, &config));
        let service = Receive::new(admitted, served, &config);
        let connections = Connections::new((service, admission.clone()), &config, drain.clone(), cut.clone());
        let peers = Peers::new(limits(&config));
        let acceptor = Acceptor::new(listener, peers.clone());
        let open = TaskTracker::new();
        let version = wanted.meta.get("version").cloned().unwrap_or_default();
        let listing = Listing::begin(registry.as_ref(), wanted, bound, &config).await?;
        let _ = handle.running.set(Running {
            service: name.to_string(),
            version,
            bound,
            registration: listing.state(),
            connections: open.clone(),
            peers,
            admission,
        });

        health.set_running(true);
        info!(service = %name, %bound, "`{name}` serves on {bound}");
        let leave = async {
            shutdown.await;
            health.set_running(false);
            listing.leave().await;
            sleep(config.drain).await;
        };
        tokio::select! {
            () = leave => {}
            never = take_in(&acceptor, &connections, &open) => match never {},
        }
        drop(acceptor);
        drain.begin();
        finish(&open, &cut, config.drain_timeout).await;
        listing.end().await;
        info!(service = %name, "`{name}` has stopped");
        Ok(())
    }

    /// The configuration with what was set besides.
    fn settled_config(&self) -> Result<ServerConfig, Error> {
        let mut config = self.config.clone();
        config.weight = self.weight.unwrap_or(config.weight);
        if let Some(locality) = self.locality.clone() {
            config.locality = Some(locality.map_err(|why| Error::Config(why.to_string()))?);
        }
        Ok(config)
    }

    /// What is known of everything that is answered.
    fn described(&self) -> Result<Served, Error> {
        let services = self.served.iter().copied().chain(BUILT_IN).collect();
        let descriptors: Vec<_> = self.descriptors.iter().copied().chain(reflection::own()).collect();
        Served::new(services, &descriptors)
    }

    /// Everything that is answered: the services, their health, reflection.
    fn routes(self) -> Result<Routes, Error> {
        if let Some(name) = self.added_twice {
            let mend = if BUILT_IN.contains(&name) { "every server has it already" } else { "add it once" };
            return Err(Error::Config(format!("the service {name} was added twice; {mend}")));
        }
        let mut routes = self.routes;
        routes.add_service(self.handle.health.service(self.handle.drain.clone()));
        let served: Vec<_> = self.served.into_iter().chain(BUILT_IN).collect();
        reflection::add(&mut routes, &served, &self.descriptors)?;
        Ok(routes.routes())
    }
}

/// What every server answers besides the services it is given.
const BUILT_IN: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Returns whether `path` is a method of those.
fn is_built_in(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split('/').next());
    service.is_some_and(|service| BUILT_IN.contains(&service))
}

/// What all peers together may hold.
fn limits(config: &ServerConfig) -> Limits {
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
    Limits {
        connections: config.max_connections.min(files - files / 4).max(1),
        streams: config.max_streams.max(1),
        bytes: config.max_buffered_bytes.max(1),
    }
}

/// Takes in connections for as long as it is polled.
async fn take_in(acceptor: &Acceptor, connections: &Connections, open: &TaskTracker) -> Infallible {
    loop {
        let accepted = acceptor.accept().await;
        open.spawn(connections.clone().serve(accepted));
    }
}

/// Waits until every connection has ended; ends those that take too long.
async fn finish(open: &TaskTracker, cut: &CancellationToken, limit: Duration) {
    open.close();
    if timeout(limit, open.wait()).await.is_err() {
        let left = open.len();
        warn!(
            connections = left,
            "{left} connections still had calls under way after {limit:?}; cutting them off"
        );
        cut.cancel();
        open.wait().await;
    }
}
