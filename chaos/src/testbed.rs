//! The testbed: a registry, replicas of a service, and a mesh that calls them.
//! Everything but the mesh is a process of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::{
    Channel, ChannelConfig,
    consul::{CheckStatus, Client, ConsulResolver, HealthEntry, HealthQuery, instance_id},
    instance::{InstanceHealth, InstanceId},
    resolve::{Resolution, Resolver},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::setting::ScenarioSetting;

pub(crate) mod child;
mod consul_cluster;
mod fake_registry;
mod hosts;
pub(crate) mod ports;
pub(crate) mod registry;
mod replica;
pub(crate) mod shop;

pub(crate) use consul_cluster::ConsulCluster;
pub(crate) use fake_registry::{FakeRegistry, FakeResponse};
pub(crate) use hosts::{Hosts, PacketLoss};
pub(crate) use registry::{Registry, RegistryKind};
pub(crate) use replica::{LaunchSpec, Replica};

/// The service that is called.
pub(crate) const SERVICE: &str = "target";
/// The limit on the time until the registry shows a replica passing.
const PASSING_TIMEOUT: Duration = Duration::from_secs(30);

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
    count_listed.into_iter().any(|i| i.id == *id && i.health == InstanceHealth::Passing)
}

/// The id under which a replica registers.
///
/// # Errors
/// When the service's name is invalid.
fn instance_id_of(service: &str, listen: SocketAddr) -> Result<InstanceId> {
    Ok(InstanceId::new(&instance_id(&service.parse()?, &listen.into())))
}
