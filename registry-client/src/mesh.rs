//! The handle of the mesh, which creates channels and servers.

mod resolvers;

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use opentelemetry::metrics::Meter;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use self::resolvers::Resolvers;
use crate::{
    AdminConfig, Channel, ChannelConfig, Error, ServerConfig,
    admin::{self, MeshState, Page, ProcessState},
    config::Environment,
    consul::{Client, Discovery},
    instance::ServiceName,
    policy::Methods,
    resolve::{RegistryCounters, Resolution, Resolver},
    server::{Server, ServerHandle, ServerState},
    telemetry::{ChannelSnapshot, Meters, observe},
};

/// The mesh: creates channels and servers that share one registry. Cheap to
/// clone.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    consul: Option<Client>,
    resolvers: Resolvers,
    channel_config: ChannelConfig,
    server_config: ServerConfig,
    descriptors: Vec<&'static [u8]>,
    methods: Methods,
    /// One channel per service. Names come from code, so they are few.
    channels: Mutex<HashMap<ServiceName, OpenChannel>>,
    meter: Option<Meter>,
    /// The servers of this process; few, because each is created by code.
    servers: Mutex<Vec<Weak<ServerHandle>>>,
    admin: OnceLock<AdminEndpoint>,
    metrics_page: Option<Page>,
}

/// The admin endpoint, which is open until this is dropped.
struct AdminEndpoint {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// A channel with its resolution.
struct OpenChannel {
    channel: Channel,
    resolution: watch::Receiver<Resolution>,
    registry: Option<Arc<RegistryCounters>>,
}

impl Mesh {
    /// A mesh with the settings of the environment: `CONSUL_*`, which mean the
    /// same as to Consul's own command line, `CONSORT_*` of
    /// [`ChannelConfig::from_env`] and [`ServerConfig::from_env`], and
    /// `CONSORT_STATE_DIR` for [`MeshBuilder::state_dir`]. To add to them,
    /// start from [`MeshBuilder::from_env`].
    ///
    /// # Errors
    /// When the value of a variable is invalid.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn from_env() -> Result<Self, Error> {
        MeshBuilder::from_env()?.build()
    }

    /// A builder without settings.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// A channel to `service`; the same one each time. Must be called within a
    /// tokio runtime. An invalid name gives a channel whose every call fails
    /// with `INVALID_ARGUMENT`.
    #[must_use]
    pub fn channel(&self, service: &str) -> Channel {
        let name: ServiceName = match service.parse() {
            Ok(name) => name,
            Err(why) => return Channel::broken(Status::invalid_argument(format!("no such channel: {why}"))),
        };
        let channels = || self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = channels().get(&name) {
            return open.channel.clone();
        }
        // Not under the lock of the channels: the SDK has a lock around its
        // instruments, and holds it while it reads the channels.
        let meters = self.shared.meter.as_ref().map(|meter| Meters::new(meter, &name));
        let open_channel = |name: &ServiceName| self.shared.open_channel(name, meters);
        channels().entry(name).or_insert_with_key(open_channel).channel.clone()
    }

    /// A server for `service`, the name that it registers under.
    pub fn serve(&self, service: &str) -> Server {
        let shared = &*self.shared;
        let config = shared.server_config.clone();
        let (consul, descriptors) = (shared.consul.clone(), shared.descriptors.clone());
        let mesh = Arc::downgrade(&self.shared);
        let server = Server::new(service.parse(), consul, config, descriptors, mesh);
        let mut servers = shared.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|server| server.strong_count() > 0);
        servers.push(server.handle());
        server
    }

    /// The state of the mesh in this process: its servers, its channels, and
    /// for each instance why it gets calls or not.
    #[must_use]
    pub fn state(&self) -> MeshState {
        self.shared.state()
    }

    /// Opens the HTTP endpoint of this process (see [`admin`](crate::admin))
    /// for the lifetime of the mesh; returns its address. Must be called within
    /// a tokio runtime.
    ///
    /// A server that runs afterwards registers the port of its metrics; see
    /// [`METRICS_PORT`](crate::instance::METRICS_PORT).
    ///
    /// # Errors
    /// When the address is in use, is reachable from other machines without
    /// that being allowed, or the mesh has an admin endpoint already.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn admin(&self, config: &AdminConfig) -> Result<SocketAddr, Error> {
        let listener = admin::bind(config).await?;
        let address = listener.local_addr().map_err(Error::Listener)?;
        let task = AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, Arc::downgrade(&self.shared))));
        let twice = |_| Error::Config("the mesh has an admin endpoint already".to_owned());
        self.shared.admin.set(AdminEndpoint { address, _task: task }).map_err(twice)?;
        Ok(address)
    }

    /// The meter of this mesh; `None` when it was built without.
    #[must_use]
    pub fn meter(&self) -> Option<&Meter> {
        self.shared.meter.as_ref()
    }

    /// The Consul client of this mesh; `None` when it was built without.
    #[must_use]
    pub fn consul(&self) -> Option<&Client> {
        self.shared.consul.as_ref()
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MeshState {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channels: Vec<_> = channels.values().filter_map(|open| open.channel.state()).collect();
        channels.sort_by(|a, b| a.service.cmp(&b.service));
        MeshState { process: ProcessState::now(), servers: self.servers(), channels }
    }

    pub(crate) fn metrics_page(&self) -> Option<Page> {
        self.metrics_page.clone()
    }

    /// The address of `/metrics`; `None` without a metrics page.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_page.as_ref()?;
        self.admin.get().map(|endpoint| endpoint.address)
    }

    pub(crate) fn servers(&self) -> Vec<ServerState> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().filter_map(|server| server.upgrade()?.state()).collect()
    }

    /// A new channel.
    fn open_channel(&self, name: &ServiceName, meters: Option<Meters>) -> OpenChannel {
        let source = self.resolvers.of(name);
        let resolution = source.resolve(name);
        let registry = source.counters(name);
        let (methods, config) = (self.methods.clone(), self.channel_config.clone());
        let channel = Channel::from_resolution(name.clone(), resolution.clone(), methods, config);
        if let (Some(meters), Some(counters)) = (meters, channel.counters()) {
            counters.measure(meters);
        }
        OpenChannel { channel, resolution, registry }
    }

    /// A snapshot of every channel, for metrics.
    fn channel_snapshots(&self) -> Vec<ChannelSnapshot> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel_snapshots = |(name, open): (&ServiceName, &OpenChannel)| {
            Some(ChannelSnapshot {
                service: name.to_string(),
                counters: open.channel.counters()?,
                state: open.channel.state()?,
                resolution: open.resolution.borrow().clone(),
                registry: open.registry.clone(),
            })
        };
        channels.iter().filter_map(channel_snapshots).collect()
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").finish_non_exhaustive()
    }
}

/// Builds a [`Mesh`].
#[derive(Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct MeshBuilder {
    consul: Option<Client>,
    resolver: Option<Arc<dyn Resolver>>,
    discoveries: Vec<(String, Discovery)>,
    state_dir: Option<PathBuf>,
    channel_config: ChannelConfig,
    server_config: ServerConfig,
    descriptors: Vec<&'static [u8]>,
    meter: Option<Meter>,
    metrics_page: Option<Page>,
}

impl MeshBuilder {
    /// A builder with the settings of the environment; see [`Mesh::from_env`].
    ///
    /// # Errors
    /// When the value of a variable is invalid.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self {
            consul: Some(Client::from_env().map_err(|why| Error::Config(why.to_string()))?),
            resolver: None,
            discoveries: Vec::new(),
            state_dir: Environment::of_process().path("CONSORT_STATE_DIR"),
            channel_config: ChannelConfig::from_env()?,
            server_config: ServerConfig::from_env()?,
            descriptors: Vec::new(),
            meter: None,
            metrics_page: None,
        })
    }

    /// Registers servers in Consul, and finds instances there unless a
    /// [`resolver`](Self::resolver) is given.
    pub fn consul(mut self, client: Client) -> Self {
        self.consul = Some(client);
        self
    }

    /// Finds instances by `resolver` instead of Consul. Without
    /// [`consul`](Self::consul) too, servers do not register.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Finds the instances of `service` in Consul by `discovery`: in another
    /// datacenter, by a filter, or both. Other services are not affected. The
    /// last call for a service holds; the name is case-insensitive, as in
    /// Consul.
    ///
    /// Errors that only Consul detects fail the calls: a filter that it
    /// rejects, and a datacenter that its servers have no path to. While a
    /// datacenter is unreachable, its last known instances are used.
    ///
    /// ```
    /// use registry_client::{
    ///     Mesh,
    ///     consul::{Client, Discovery},
    /// };
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let canary = Discovery::default().datacenter("dc2").filter(r#"Service.Meta.version == "v2""#);
    /// let consul = Client::builder("127.0.0.1:8500").build()?;
    /// let mesh = Mesh::builder().consul(consul).discover("cart-service", canary).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn discover(mut self, service: &str, discovery: Discovery) -> Self {
        self.discoveries.push((service.to_owned(), discovery));
        self
    }

    /// Saves the sets of the registry in `dir` (`CONSORT_STATE_DIR`), so that
    /// the next process can start while the registry is down; see
    /// [`SnapshotResolver`](crate::SnapshotResolver). Nothing is written unless this is
    /// set.
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Measures channels by `meter`: attempts, retries, ejections and
    /// connections under gRPC's names, the rest as `consort.*`. Counters are
    /// read when the meter's reader collects; without a meter nothing is
    /// measured. The caller chooses the SDK and the exporter.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Serves `/metrics` (see [`admin`](crate::admin)) by `render`: metrics in
    /// Prometheus' text format, version 0.0.4. It is called for each request,
    /// one at a time, on a thread where it may block, and should take well
    /// below the timeout of ten seconds. An error is sent with status 500;
    /// without a page `/metrics` is a 404.
    ///
    /// This does not set the [`meter`](Self::meter): both belong to one
    /// exporter of the caller's choice.
    pub fn metrics_page<E: fmt::Display>(
        mut self,
        render: impl FnMut() -> Result<String, E> + Send + 'static,
    ) -> Self {
        self.metrics_page = Some(Page::new(render));
        self
    }

    /// Sets the settings of channels.
    pub fn channel_config(mut self, config: ChannelConfig) -> Self {
        self.channel_config = config;
        self
    }

    /// Sets the settings of servers.
    pub fn server_config(mut self, config: ServerConfig) -> Self {
        self.server_config = config;
        self
    }

    /// Adds services by an encoded `google.protobuf.FileDescriptorSet`: it has
    /// the methods that are safe to retry, and the answers of reflection. May
    /// be called several times.
    pub fn descriptors(mut self, set: &'static [u8]) -> Self {
        self.descriptors.push(set);
        self
    }

    /// Builds the mesh.
    ///
    /// # Errors
    /// When the mesh has neither Consul nor a resolver, a
    /// [discovery](Self::discover) is invalid or contradicts a
    /// [resolver](Self::resolver), or a descriptor set cannot be decoded.
    pub fn build(self) -> Result<Mesh, Error> {
        let mut methods = Methods::default();
        for set in &self.descriptors {
            methods.describe(set)?;
        }
        let resolvers =
            Resolvers::new(self.consul.as_ref(), self.resolver, self.discoveries, self.state_dir.as_deref())?;
        admin::begin_uptime();
        let shared = Arc::new(Shared {
            consul: self.consul,
            resolvers,
            channel_config: self.channel_config,
            server_config: self.server_config,
            descriptors: self.descriptors,
            methods,
            channels: Mutex::default(),
            servers: Mutex::default(),
            admin: OnceLock::new(),
            meter: self.meter,
            metrics_page: self.metrics_page,
        });
        if let Some(meter) = &shared.meter {
            // The meter's provider outlives the mesh and must not keep it
            // alive.
            let mesh = Arc::downgrade(&shared);
            let channels = move || mesh.upgrade().map(|mesh| mesh.channel_snapshots()).unwrap_or_default();
            observe(meter, &(Arc::new(channels) as _));
        }
        Ok(Mesh { shared })
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder").finish_non_exhaustive()
    }
}
