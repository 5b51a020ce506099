//! A tonic server that registers, reports its health and drains.
//!
//! From start to stop:
//!
//! 1. The listener is bound; the health is `NOT_SERVING`.
//! 2. The instance registers, and stays registered whatever happens to the
//!    registry. The server serves even if the registry is unreachable.
//! 3. Connections are accepted; the health is SERVING.
//! 4. On the stop signal the health is `NOT_SERVING`, which is pushed to every
//!    open `Watch`, and the instance enters maintenance mode in the registry.
//!    Calls are still accepted until callers have had time to notice
//!    ([`ServerConfig::drain`]).
//! 5. The listener closes and every connection gets GOAWAY. Calls in flight
//!    finish, or are cut off after [`ServerConfig::drain_timeout`].
//! 6. The instance deregisters.
//!
//! An `:authority` that is invalid in HTTP/2, such as the list of addresses
//! that gRPC core sends for a target `ipv4:10.0.0.1:50051,10.0.0.2:50051`, is
//! corrected before it is parsed, and ignored. Where a correction is
//! impossible, which is logged once, the caller has to set another: in gRPC
//! core's languages by the channel option `grpc.default_authority`.

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
mod correct_status;
mod deadline;
mod descriptors;
mod drain;
mod gzip;
mod health;
mod log_limiter;
mod panic;
mod peers;
mod receive;
mod reflection;
mod registration;
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
use connection::ConnectionServer;
use correct_status::{CorrectStatus, Served};
use gzip::Gzip;
use peers::{Peers, ResourceLimits};
use receive::Receive;
use registration::{InstanceSpec, RegisteredInstance};
use state::RunningServer;

/// A server of one registered service, created by
/// [`Mesh::serve`](crate::Mesh::serve). Serves `grpc.health.v1` and
/// `grpc.reflection` (v1 and v1alpha) besides the services that are added.
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
    /// These two override `config`.
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

    /// Adds `service`, one that tonic generates, under its full name. A request
    /// message above 4 MiB is rejected unless the service has another
    /// `max_decoding_message_size`.
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

    /// Adds an encoded `google.protobuf.FileDescriptorSet` for reflection,
    /// besides those that the mesh was built with.
    pub fn descriptors(mut self, set: &'static [u8]) -> Self {
        self.descriptors.push(set);
        self
    }

    /// Sets the settings of this server; those of the mesh unless called.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Adds a tag to the registered instance, besides `grpc`.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds a meta pair to the registered instance, besides `protocol`, which
    /// is `grpc`, and `version`.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// Sets the version of the registered instance, by which traffic can be
    /// split; `unknown` unless set.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.meta("version", version)
    }

    /// Sets the weight of the registered instance, 1 or more; overrides
    /// [`ServerConfig::weight`].
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Sets the region of the registered instance, and the zone unless `zone`
    /// is empty; overrides [`ServerConfig::locality`].
    pub fn locality(mut self, region: &str, zone: &str) -> Self {
        self.locality = Some(Locality::new(region, zone));
        self
    }

    /// A handle to report whether services can work.
    #[must_use]
    pub fn health(&self) -> ServerHealth {
        self.handle.health.clone()
    }

    /// A handle that signals services to end long-lived streams.
    #[must_use]
    pub fn drain_signal(&self) -> Drain {
        self.handle.drain.clone()
    }

    /// The handle of this server, for the admin endpoint.
    pub(crate) fn handle(&self) -> Weak<ServerHandle> {
        Arc::downgrade(&self.handle)
    }

    /// Serves on `listener`, registered, until `shutdown` completes; then
    /// drains as described in the [module](self), and returns when all its
    /// tasks have ended. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Before anything is served: when the service's name, tags, meta, weight,
    /// locality or descriptors are invalid, or a service was added twice.
    ///
    /// # Cancel safety
    /// Dropping the future closes every connection and stops maintaining the
    /// registration, which stays in the registry.
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
        let spec =
            InstanceSpec { name: name.clone(), tags: self.tags.clone(), meta: self.meta.clone(), metrics };

        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let admission = config.admission.as_ref();
        let admission = Admission::new(admission, name.as_str(), &self.served, &self.descriptors)?;
        let served = Arc::new(self.describe()?);
        let corrected = CorrectStatus::new(self.routes()?.prepare(), served.clone());
        let limited = admission.clone().layer(Gzip::new(corrected, &config));
        let service = Receive::new(limited, served, &config);
        let connections =
            ConnectionServer::new((service, admission.clone()), &config, drain.clone(), cut.clone());
        let peers = Peers::new(limits(&config));
        let acceptor = Acceptor::new(listener, peers.clone());
        let open = TaskTracker::new();
        let version = spec.meta.get("version").cloned().unwrap_or_default();
        let registration = RegisteredInstance::register(registry.as_ref(), spec, bound, &config).await?;
        let _ = handle.running.set(RunningServer {
            service: name.to_string(),
            version,
            bound,
            registration: registration.state(),
            connections: open.clone(),
            peers,
            admission,
        });

        health.set_running(true);
        info!(service = %name, %bound, "`{name}` serves on {bound}");
        let leave = async {
            shutdown.await;
            health.set_running(false);
            registration.enter_maintenance().await;
            sleep(config.drain).await;
        };
        tokio::select! {
            () = leave => {}
            never = take_in(&acceptor, &connections, &open) => match never {},
        }
        drop(acceptor);
        drain.begin();
        finish(&open, &cut, config.drain_timeout).await;
        registration.deregister().await;
        info!(service = %name, "`{name}` has stopped");
        Ok(())
    }

    /// The settings with the overrides of the builder applied.
    fn settled_config(&self) -> Result<ServerConfig, Error> {
        let mut config = self.config.clone();
        config.weight = self.weight.unwrap_or(config.weight);
        if let Some(locality) = self.locality.clone() {
            config.locality = Some(locality.map_err(|why| Error::Config(why.to_string()))?);
        }
        Ok(config)
    }

    /// The services and methods that are served.
    fn describe(&self) -> Result<Served, Error> {
        let services = self.served.iter().copied().chain(BUILT_IN).collect();
        let descriptors: Vec<_> = self.descriptors.iter().copied().chain(reflection::own()).collect();
        Served::new(services, &descriptors)
    }

    /// The routes of all services, health and reflection included.
    fn routes(self) -> Result<Routes, Error> {
        if let Some(name) = self.added_twice {
            let fix = if BUILT_IN.contains(&name) { "every server has it already" } else { "add it once" };
            return Err(Error::Config(format!("the service {name} was added twice; {fix}")));
        }
        let mut routes = self.routes;
        routes.add_service(self.handle.health.service(self.handle.drain.clone()));
        let served: Vec<_> = self.served.into_iter().chain(BUILT_IN).collect();
        reflection::add(&mut routes, &served, &self.descriptors)?;
        Ok(routes.routes())
    }
}

/// The services that every server has.
const BUILT_IN: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Returns whether `path` is a method of a built-in service.
fn is_built_in(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split('/').next());
    service.is_some_and(|service| BUILT_IN.contains(&service))
}

/// The limits on what all peers together may hold.
fn limits(config: &ServerConfig) -> ResourceLimits {
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
    ResourceLimits {
        connections: config.max_connections.min(files - files / 4).max(1),
        streams: config.max_streams.max(1),
        bytes: config.max_buffered_bytes.max(1),
    }
}

/// Accepts connections for as long as it is polled.
async fn take_in(acceptor: &Acceptor, connections: &ConnectionServer, open: &TaskTracker) -> Infallible {
    loop {
        let accepted = acceptor.accept().await;
        open.spawn(connections.clone().serve(accepted));
    }
}

/// Waits until every connection has ended; closes those that take too long.
async fn finish(open: &TaskTracker, cut: &CancellationToken, limit: Duration) {
    open.close();
    if timeout(limit, open.wait()).await.is_err() {
        let left = open.len();
        warn!(
            connections = left,
            "{left} connections still have calls in flight after the drain timeout of {limit:?}; closing them"
        );
        cut.cancel();
        open.wait().await;
    }
}
