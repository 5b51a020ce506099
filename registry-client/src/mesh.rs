//! The one handle: channels to services, and a server that registers itself.

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
    server::{Inside, Server, ServerState},
    telemetry::{Meters, Observed, observe},
};

/// The way into the mesh: hands out channels and servers that share one
/// registry. Cheap to clone.
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
    /// One channel per service that was ever asked for. Names come from code,
    /// so they are few.
    channels: Mutex<HashMap<ServiceName, Known>>,
    meter: Option<Meter>,
    /// Those that are there; few, for each is made by code.
    servers: Mutex<Vec<Weak<Inside>>>,
    admin: OnceLock<AdminEndpoint>,
    metrics_page: Option<Page>,
}

/// Answers for as long as it is there.
struct AdminEndpoint {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// A channel, and what its resolver tells it.
struct Known {
    channel: Channel,
    resolution: watch::Receiver<Resolution>,
    registry: Option<Arc<RegistryCounters>>,
}

impl Mesh {
    /// A mesh as the environment says: `CONSUL_*` as Consul's own command line
    /// reads it, and `CONSORT_*` as [`ChannelConfig::from_env`] and
    /// [`ServerConfig::from_env`] do, and `CONSORT_STATE_DIR` as
    /// [`MeshBuilder::state_dir`]. To add to that, start from
    /// [`MeshBuilder::from_env`].
    ///
    /// # Errors
    /// When a variable is set to something that it cannot mean.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn from_env() -> Result<Self, Error> {
        MeshBuilder::from_env()?.build()
    }

    /// A mesh that is told everything in code.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// A channel to `service`; the same one each time. Within a tokio runtime.
    /// An impossible name gives a channel whose every call fails saying so.
    #[must_use]
    pub fn channel(&self, service: &str) -> Channel {
        let name: ServiceName = match service.parse() {
            Ok(name) => name,
            Err(why) => return Channel::broken(Status::invalid_argument(format!("no such channel: {why}"))),
        };
        let channels = || self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = channels().get(&name) {
            return known.channel.clone();
        }
        // Not under the lock of the channels: the SDK has one of its own around
        // its instruments, and holds it while it asks for the channels.
        let meters = self.shared.meter.as_ref().map(|meter| Meters::new(meter, &name));
        let open = |name: &ServiceName| self.shared.open(name, meters);
        channels().entry(name).or_insert_with_key(open).channel.clone()
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
        servers.push(server.inside());
        server
    }

    /// What this process knows of its mesh: its servers, its channels, and of
    /// each instance why calls go there or do not.
    #[must_use]
    pub fn state(&self) -> MeshState {
        self.shared.state()
    }

    /// Tells of this process by HTTP (see [`admin`](crate::admin)) for as long
    /// as the mesh is there; gives the address. Within a tokio runtime.
    ///
    /// A server that is run afterwards registers where its metrics are; see
    /// [`METRICS_PORT`](crate::instance::METRICS_PORT).
    ///
    /// # Errors
    /// When the address cannot be had, is reached from other machines without
    /// that being allowed, or the mesh has such an endpoint already.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn admin(&self, config: &AdminConfig) -> Result<SocketAddr, Error> {
        let listener = admin::bind(config).await?;
        let address = listener.local_addr().map_err(Error::Listener)?;
        let task = AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, Arc::downgrade(&self.shared))));
        let again = |_| Error::Config("the mesh has an admin endpoint already".to_owned());
        self.shared.admin.set(AdminEndpoint { address, _task: task }).map_err(again)?;
        Ok(address)
    }

    /// What this mesh is measured with; `None` when it was built without.
    #[must_use]
    pub fn meter(&self) -> Option<&Meter> {
        self.shared.meter.as_ref()
    }

    /// The Consul that this mesh registers in; `None` when it was built
    /// without.
    #[must_use]
    pub fn consul(&self) -> Option<&Client> {
        self.shared.consul.as_ref()
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MeshState {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channels: Vec<_> = channels.values().filter_map(|known| known.channel.state()).collect();
        channels.sort_by(|a, b| a.service.cmp(&b.service));
        MeshState { process: ProcessState::now(), servers: self.servers(), channels }
    }

    pub(crate) fn metrics_page(&self) -> Option<Page> {
        self.metrics_page.clone()
    }

    /// Where `/metrics` is answered; `None` where it is not.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_page.as_ref()?;
        self.admin.get().map(|endpoint| endpoint.address)
    }

    pub(crate) fn servers(&self) -> Vec<ServerState> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().filter_map(|server| server.upgrade()?.state()).collect()
    }

    /// A new channel.
    fn open(&self, name: &ServiceName, meters: Option<Meters>) -> Known {
        let source = self.resolvers.of(name);
        let resolution = source.resolve(name);
        let registry = source.counters(name);
        let resolver = Resolved(resolution.clone());
        let config = self.channel_config.clone();
        let channel = Channel::new(name.clone(), &resolver, self.methods.clone(), config);
        if let (Some(meters), Some(counters)) = (meters, channel.counters()) {
            counters.measure(meters);
        }
        Known { channel, resolution, registry }
    }

    /// Every channel, for whoever collects metrics.
    fn observed(&self) -> Vec<Observed> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = |(name, known): (&ServiceName, &Known)| {
            Some(Observed {
                service: name.to_string(),
                counters: known.channel.counters()?,
                state: known.channel.state()?,
                resolution: known.resolution.borrow().clone(),
                registry: known.registry.clone(),
            })
        };
        channels.iter().filter_map(observed).collect()
    }
}

/// What was resolved already.
struct Resolved(watch::Receiver<Resolution>);

impl Resolver for Resolved {
    fn resolve(&self, _: &ServiceName) -> watch::Receiver<Resolution> {
        self.0.clone()
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").finish_non_exhaustive()
    }
}

/// Puts a [`Mesh`] together.
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
    /// Starts from what the environment says; see [`Mesh::from_env`].
    ///
    /// # Errors
    /// When a variable is set to something that it cannot mean.
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

    /// Finds instances by `resolver` and not in Consul. Without a
    /// [`consul`](Self::consul) besides, servers do not register.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Finds the instances of `service` in Consul as `discovery` says: in
    /// another datacenter, by a filter, or both. All other services are found
    /// as without it. Given twice for one service, the last holds; the case of
    /// the name makes no difference, as in Consul.
    ///
    /// What only Consul can judge is the error of the calls: a filter that it
    /// rejects, and a datacenter that its servers have no path to. While a
    /// datacenter cannot be reached its last known instances are called.
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

    /// Remembers what the registry says in `dir` (`CONSORT_STATE_DIR`), so that
    /// the next process starts while the registry is down; see [`Remembered`](crate::Remembered).
    /// Nothing is written unless this is set.
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Measures channels by `meter`: attempts, retries, ejections and
    /// connections under gRPC's names, the rest as `consort.*`. Counters are
    /// read when the meter's reader collects; without a meter nothing is
    /// measured. What exports them is the caller's choice of SDK.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Answers `/metrics` (see [`admin`](crate::admin)) with what `render`
    /// gives: metrics in Prometheus' text format, version 0.0.4. It is called for
    /// each request, one at a time, on a thread where it may block, and should
    /// take well below the ten seconds after which nobody waits for it. An error
    /// is answered with 500 and its words; without a page `/metrics` is a 404.
    ///
    /// What is measured is up to the [`meter`](Self::meter), which this does not
    /// set: the two belong to one exporter of the caller's choice.
    pub fn metrics_page<E: fmt::Display>(
        mut self,
        render: impl FnMut() -> Result<String, E> + Send + 'static,
    ) -> Self {
        self.metrics_page = Some(Page::new(render));
        self
    }

    /// How channels call.
    pub fn channel_config(mut self, config: ChannelConfig) -> Self {
        self.channel_config = config;
        self
    }

    /// How servers serve.
    pub fn server_config(mut self, config: ServerConfig) -> Self {
        self.server_config = config;
        self
    }

    /// Describes services: an encoded `google.protobuf.FileDescriptorSet`. From
    /// it channels learn which methods are safe to send twice, and reflection
    /// what it answers. May be called for several.
    pub fn descriptors(mut self, set: &'static [u8]) -> Self {
        self.descriptors.push(set);
        self
    }

    /// The mesh.
    ///
    /// # Errors
    /// When there is nothing to find instances by, a
    /// [discovery](Self::discover) is impossible or contradicts a
    /// [resolver](Self::resolver), or a descriptor set is not one.
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
            // A provider outlives the mesh, and must not keep it alive.
            let mesh = Arc::downgrade(&shared);
            let channels = move || mesh.upgrade().map(|mesh| mesh.observed()).unwrap_or_default();
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
