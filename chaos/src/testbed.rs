//! The testbed: a registry, replicas of a service, and a mesh that calls them.
//! Everything but the mesh is a process of its own.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::{
    Channel, ChannelConfig, Mesh,
    balance::Balancer,
    consul::{CheckStatus, Client, ConsulResolver, HealthEntry, HealthQuery, instance_id},
    instance::{Health, InstanceId},
    policy::budget::BudgetConfig,
    resolve::{Resolution, Resolver},
};
use rustix::process::Pid;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    attack::Attack,
    cli::{Database, Size},
    proto::DESCRIPTORS,
};

pub(crate) mod child;
mod consul_cluster;
pub(crate) mod cpu;
mod fake_registry;
mod hosts;
pub(crate) mod ports;
pub(crate) mod registry;
mod replica;
#[allow(dead_code, reason = "a bed offers what its scenarios may need")]
pub(crate) mod shop;
mod trusting_resolver;

pub(crate) use consul_cluster::ConsulCluster;
pub(crate) use fake_registry::{FakeRegistry, FakeResponse};
pub(crate) use hosts::{Hosts, PacketLoss};
pub(crate) use registry::{Registry, RegistryKind};
pub(crate) use replica::{LaunchSpec, Replica};
use trusting_resolver::{Trust, TrustingResolver};

/// The service that is called.
pub(crate) const SERVICE: &str = "target";
/// The mechanism that limits the resources of each peer of a server.
pub(crate) const PEER_LIMITS: &str = "limits per peer";
/// The mechanism that closes a client's dead connections.
pub(crate) const TIMEOUTS: &str = "timeouts of connections";
/// The mechanism that limits a server's concurrent calls.
pub(crate) const ADMISSION: &str = "admission";
/// The mechanisms that limit a client's attempts.
pub(crate) const CLIENT_LIMITS: &str = "retry budget and throttle";
/// Longer than any scenario.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);
/// The limit on the time until the registry shows a replica passing.
const PASSING_TIMEOUT: Duration = Duration::from_secs(30);

/// The settings of one run of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct ScenarioSetting {
    pub(crate) size: Size,
    /// The mechanism that is switched off.
    pub(crate) without: Option<&'static str>,
    /// The folder of the processes' logs and data.
    pub(crate) logs: PathBuf,
    /// The program of the real Consul.
    pub(crate) consul: PathBuf,
    /// The database of the shop.
    pub(crate) db: Database,
    /// The implementation of the replicas of [`SERVICE`].
    pub(crate) server_kind: ServerKind,
    /// The program of the replicas that are grpc-go servers.
    pub(crate) grpc_go: PathBuf,
    /// The attacks to run; empty means all.
    pub(crate) attacks: Vec<&'static Attack>,
}

/// The implementation of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// This program.
    Consort,
    /// A stock grpc-go server.
    GrpcGo,
    /// A grpc-go server behind Go's `net/http`, which can end a call without a
    /// status.
    GoHttp,
}

/// The proportional set size of a process in KiB.
pub(crate) fn memory(pid: Pid) -> Result<usize> {
    let file = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl ScenarioSetting {
    /// The value for the size of this run.
    pub(crate) fn sized<T>(&self, quick: T, usual: T, full: T) -> T {
        match self.size {
            Size::Quick => quick,
            Size::Usual => usual,
            Size::Full => full,
        }
    }

    /// The time of load before the fault.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(self.sized(2, 5, 5))
    }

    /// Returns whether that mechanism is switched off.
    pub(crate) fn is_disabled(&self, mechanism: &str) -> bool {
        self.without == Some(mechanism)
    }

    /// The channel configuration of the load, as in RELIABILITY.md, without the
    /// mechanism that is switched off.
    pub(crate) fn channel_config(&self) -> ChannelConfig {
        let mut config = ChannelConfig::default();
        config.deadline = Duration::from_secs(1);
        config.keepalive_time = Duration::from_secs(1);
        config.keepalive_timeout = Duration::from_millis(500);
        config.connect_timeout = Duration::from_secs(1);
        if self.is_disabled("keep-alive") {
            // A server that owes responses is pinged after half the shorter of
            // these.
            (config.keepalive_time, config.keepalive_timeout) = (NEVER, NEVER);
        }
        if self.is_disabled("outlier detection") {
            config.outlier = None;
        }
        if self.is_disabled("growing ejections") {
            let outlier = config.outlier.get_or_insert_default();
            outlier.max_ejection_time = outlier.base_ejection_time;
        }
        if self.is_disabled(CLIENT_LIMITS) {
            config.service_config.throttle = None;
        }
        if self.is_disabled("retry budget") || self.is_disabled(CLIENT_LIMITS) {
            config.service_config.budget = BudgetConfig::Share { ratio: 100.0, min_per_second: 1_000_000 };
        }
        if self.is_disabled("least_request") {
            config.balancer = Balancer::RoundRobin;
        }
        config
    }

    /// A mesh with that configuration on `consul`.
    ///
    /// # Errors
    /// Never: the settings are valid.
    pub(crate) fn mesh(&self, consul: Client, config: ChannelConfig) -> Result<Mesh> {
        let mut builder = Mesh::builder().consul(consul.clone()).channel_config(config);
        let levels = [("doubt", Trust::EveryResponse), ("panic", Trust::Critical)];
        if let Some((_, level)) = levels.into_iter().find(|(mechanism, _)| self.is_disabled(mechanism)) {
            builder = builder.resolver(TrustingResolver { inner: ConsulResolver::new(consul), level });
        }
        if !self.is_disabled("snapshot") {
            builder = builder.state_dir(self.logs.join("state"));
        }
        // Without descriptors no method is known as idempotent, so none is
        // retried.
        let builder = if self.is_disabled("retry") { builder } else { builder.descriptors(DESCRIPTORS) };
        Ok(builder.build()?)
    }
}

/// A registry and replicas of [`SERVICE`].
#[derive(Debug)]
pub(crate) struct Testbed {
    pub(crate) setting: ScenarioSetting,
    pub(crate) registry: Registry,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) consul: Client,
    view: watch::Receiver<Resolution>,
    /// The address of this host that replicas listen on.
    local: IpAddr,
    /// The hosts of the replicas, if not all run on this one; dropped last.
    pub(crate) hosts: Option<Hosts>,
}

impl Testbed {
    /// Starts a registry and `replicas` replicas, and waits until all pass.
    ///
    /// # Errors
    /// When a process does not start.
    pub(crate) async fn start(
        setting: &ScenarioSetting,
        kind: RegistryKind,
        replicas: usize,
    ) -> Result<Self> {
        let registry = Registry::start(kind, setting).await?;
        Self::new(setting, registry, None)?.with_replicas(replicas).await
    }

    /// Starts each replica on a host of its own, and consul-dev on this one.
    ///
    /// # Errors
    /// When a process does not start.
    pub(crate) async fn on_separate_hosts(setting: &ScenarioSetting, replicas: u8) -> Result<Self> {
        let hosts = Hosts::new(replicas)?;
        let registry = Registry::start_on(RegistryKind::Dev, hosts.gateway(), setting).await?;
        let testbed = Self::new(setting, registry, Some(hosts))?;
        testbed.with_replicas(replicas.into()).await
    }

    /// Starts the replicas on a registry that runs already and reaches this
    /// host as `local`.
    ///
    /// # Errors
    /// When a process does not start.
    pub(crate) async fn with_registry(
        setting: &ScenarioSetting,
        registry: Registry,
        local: IpAddr,
        replicas: usize,
    ) -> Result<Self> {
        let testbed = Self { local, ..Self::new(setting, registry, None)? };
        testbed.with_replicas(replicas).await
    }

    /// A testbed without replicas on a running registry.
    fn new(setting: &ScenarioSetting, registry: Registry, hosts: Option<Hosts>) -> Result<Self> {
        let local = Ipv4Addr::LOCALHOST.into();
        let consul = registry.client()?;
        let view = ConsulResolver::new(consul.clone()).resolve(&SERVICE.parse()?);
        Ok(Self { setting: setting.clone(), registry, replicas: Vec::new(), consul, view, local, hosts })
    }

    async fn with_replicas(mut self, replicas: usize) -> Result<Self> {
        for _ in 0..replicas {
            self.add(&[])?;
        }
        self.all_passing().await?;
        Ok(self)
    }

    /// Starts another replica with these further arguments and returns its
    /// index.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn add(&mut self, args: &[&str]) -> Result<usize> {
        self.add_service(SERVICE, args)
    }

    /// Starts a replica of another service and returns its index.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn add_service(&mut self, service: &'static str, args: &[&str]) -> Result<usize> {
        let index = self.replicas.len();
        let host = self.hosts.as_ref().zip(u8::try_from(index).ok());
        let port = ports::free()?;
        let launch_spec = match host {
            Some((hosts, n)) => LaunchSpec {
                listen: SocketAddr::new(hosts.address(n), port.port()),
                wrapper: hosts.exec_prefix(n),
            },
            None => LaunchSpec { listen: SocketAddr::new(self.local, port.port()), wrapper: Vec::new() },
        };
        let name = format!("{service}-{}", index + 1);
        let url = self.registry.url();
        let replica = Replica::start(&name, service, launch_spec, Some(&url), args, &self.setting)?;
        self.replicas.push(replica);
        Ok(index)
    }

    /// The registry's view of the replicas.
    pub(crate) fn view(&self) -> watch::Receiver<Resolution> {
        self.view.clone()
    }

    /// Waits until the registry shows every replica passing.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn all_passing(&self) -> Result<()> {
        for Replica { service, id, .. } in &self.replicas {
            let mut view = ConsulResolver::new(self.consul.clone()).resolve(&service.parse()?);
            let passing = timeout(PASSING_TIMEOUT, view.wait_for(|now| passes(now, id))).await;
            passing.with_context(|| format!("{id} does not pass within {PASSING_TIMEOUT:?}"))??;
        }
        Ok(())
    }

    /// The channel that the load calls through.
    ///
    /// # Errors
    /// Never: the settings are valid.
    pub(crate) fn channel(&self) -> Result<Channel> {
        self.channel_with(self.setting.channel_config())
    }

    /// A channel with another configuration.
    ///
    /// # Errors
    /// Never: the settings are valid.
    pub(crate) fn channel_with(&self, config: ChannelConfig) -> Result<Channel> {
        Ok(self.setting.mesh(self.consul.clone(), config)?.channel(SERVICE))
    }

    /// The number of registered and of passing instances of [`SERVICE`], read
    /// directly.
    pub(crate) async fn count_listed(&self) -> (usize, usize) {
        let entries = self.consul.health(SERVICE, &HealthQuery::default()).await.unwrap_or_default();
        let passing = |e: &&HealthEntry| e.checks.iter().all(|c| c.status == CheckStatus::Passing);
        (entries.len(), entries.iter().filter(passing).count())
    }

    /// The time until that many instances are registered, and until that many
    /// pass; `None` if that takes longer than `limit`.
    pub(crate) async fn time_until_listed(&self, count: usize, limit: Duration) -> [Option<Duration>; 2] {
        let began = Instant::now();
        let mut call_log = [None, None];
        while began.elapsed() < limit && call_log[1].is_none() {
            let (registered, passing) = self.count_listed().await;
            for (call_log, now) in call_log.iter_mut().zip([registered, passing]) {
                if now >= count {
                    call_log.get_or_insert(began.elapsed());
                }
            }
            // A non-blocking query sends no event, so it is polled.
            sleep(Duration::from_millis(20)).await;
        }
        call_log
    }
}

/// Returns whether the registry shows that instance passing.
pub(crate) fn passes(now: &Resolution, id: &InstanceId) -> bool {
    let count_listed = now.instances.iter().flat_map(|all| all.iter());
    count_listed.into_iter().any(|i| i.id == *id && i.health == Health::Passing)
}

/// The id under which a replica registers.
///
/// # Errors
/// When the service's name is invalid.
fn instance_id_of(service: &str, listen: SocketAddr) -> Result<InstanceId> {
    Ok(InstanceId::new(&instance_id(&service.parse()?, &listen.into())))
}
