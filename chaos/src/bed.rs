//! What is hurt: a registry, replicas of a service, and a mesh that calls
//! them. Everything but the mesh is a process of its own.

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
    instance::{InstanceHealth, InstanceId},
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

mod believer;
pub(crate) mod child;
pub(crate) mod cores;
mod hosts;
mod liar;
pub(crate) mod ports;
pub(crate) mod registry;
mod replica;
mod servers;
#[allow(dead_code, reason = "a bed offers what its scenarios may need")]
pub(crate) mod shop;

use believer::{Believer, Creed};
pub(crate) use hosts::{Cut, Hosts};
pub(crate) use liar::{Liar, Lie};
pub(crate) use registry::{Kind, Registry};
pub(crate) use replica::{Place, Replica};
pub(crate) use servers::Servers;

/// The service that is called.
pub(crate) const SERVICE: &str = "target";
/// The mechanism that a replica without limits on its peers lacks.
pub(crate) const PEER_LIMITS: &str = "limits per peer";
/// The mechanism that a client lacks which waits for ever for its servers.
pub(crate) const TIMEOUTS: &str = "timeouts of connections";
/// The mechanism that a replica without a limit on its calls lacks.
pub(crate) const ADMISSION: &str = "admission";
/// The mechanisms that callers lack who send as often as they like.
pub(crate) const RESTRAINT: &str = "retry budget and throttle";
/// Longer than any scenario.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);
/// How long replicas may take until the registry shows them passing.
const UP: Duration = Duration::from_secs(30);

/// What holds for one run of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) size: Size,
    /// The mechanism that is switched off.
    pub(crate) without: Option<&'static str>,
    /// Where processes write their logs and data.
    pub(crate) logs: PathBuf,
    /// The program of the real Consul.
    pub(crate) consul: PathBuf,
    /// Where the shop keeps its data.
    pub(crate) db: Database,
    /// What the replicas of [`SERVICE`] are.
    pub(crate) make: Make,
    /// The program of the replicas that are grpc-go servers.
    pub(crate) grpc_go: PathBuf,
    /// The attacks to run; empty means all.
    pub(crate) attacks: Vec<&'static Attack>,
}

/// The make of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// This program.
    Ours,
    /// A stock grpc-go server.
    GrpcGo,
    /// The same behind Go's `net/http`, which can end a call without a status.
    GoHttp,
}

/// The memory of a process that it shares with nobody, and its part of what it
/// shares, in KiB.
pub(crate) fn memory(pid: Pid) -> Result<usize> {
    let file = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl Setting {
    /// One of three, as the size says.
    pub(crate) fn sized<T>(&self, quick: T, usual: T, full: T) -> T {
        match self.size {
            Size::Quick => quick,
            Size::Usual => usual,
            Size::Full => full,
        }
    }

    /// How long the load goes on before anything is done to it.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(self.sized(2, 5, 5))
    }

    /// Whether that mechanism is switched off.
    pub(crate) fn lacks(&self, mechanism: &str) -> bool {
        self.without == Some(mechanism)
    }

    /// How the load's channel calls: as RELIABILITY.md's bed says, but for the
    /// mechanism that is switched off.
    pub(crate) fn channel_config(&self) -> ChannelConfig {
        let mut config = ChannelConfig::default();
        config.deadline = Duration::from_secs(1);
        config.keepalive_time = Duration::from_secs(1);
        config.keepalive_timeout = Duration::from_millis(500);
        config.connect_timeout = Duration::from_secs(1);
        if self.lacks("keep-alive") {
            // Who owes answers is asked sooner, in half the shorter of these.
            (config.keepalive_time, config.keepalive_timeout) = (NEVER, NEVER);
        }
        if self.lacks("outlier detection") {
            config.outlier = None;
        }
        if self.lacks("growing ejections") {
            let outlier = config.outlier.get_or_insert_default();
            outlier.max_ejection_time = outlier.base_ejection_time;
        }
        if self.lacks(RESTRAINT) {
            config.service_config.throttle = None;
        }
        if self.lacks("retry budget") || self.lacks(RESTRAINT) {
            config.service_config.budget = BudgetConfig::Share { ratio: 100.0, min_per_second: 1_000_000 };
        }
        if self.lacks("least_request") {
            config.balancer = Balancer::RoundRobin;
        }
        config
    }

    /// A mesh that calls so, through `consul`.
    ///
    /// # Errors
    /// Never in fact: the settings are ours.
    pub(crate) fn mesh(&self, consul: Client, config: ChannelConfig) -> Result<Mesh> {
        let mut builder = Mesh::builder().consul(consul.clone()).channel_config(config);
        let creeds = [("doubt", Creed::Everything), ("panic", Creed::Critical)];
        if let Some((_, creed)) = creeds.into_iter().find(|(mechanism, _)| self.lacks(mechanism)) {
            builder = builder.resolver(Believer { inner: ConsulResolver::new(consul), creed });
        }
        if !self.lacks("snapshot") {
            builder = builder.state_dir(self.logs.join("state"));
        }
        // What no descriptor marks as safe to send twice is not sent twice.
        let builder = if self.lacks("retry") { builder } else { builder.descriptors(DESCRIPTORS) };
        Ok(builder.build()?)
    }
}

/// A registry and replicas of [`SERVICE`].
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) setting: Setting,
    pub(crate) registry: Registry,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) consul: Client,
    view: watch::Receiver<Resolution>,
    /// The address of this host that replicas listen on.
    local: IpAddr,
    /// Where replicas are, if not all on this host; the last to be dropped.
    pub(crate) hosts: Option<Hosts>,
}

impl Bed {
    /// Starts a registry and `replicas` replicas, and waits until all pass.
    ///
    /// # Errors
    /// When something does not come up.
    pub(crate) async fn start(setting: &Setting, kind: Kind, replicas: usize) -> Result<Self> {
        let registry = Registry::start(kind, setting).await?;
        Self::on(setting, registry, None)?.filled(replicas).await
    }

    /// The same with a host for each replica, and consul-dev on this one.
    ///
    /// # Errors
    /// When something does not come up.
    pub(crate) async fn spread(setting: &Setting, replicas: u8) -> Result<Self> {
        let hosts = Hosts::new(replicas)?;
        let registry = Registry::start_on(Kind::Dev, hosts.gateway(), setting).await?;
        let bed = Self::on(setting, registry, Some(hosts))?;
        bed.filled(replicas.into()).await
    }

    /// The same around a registry that runs elsewhere and reaches this host as
    /// `local`.
    ///
    /// # Errors
    /// When something does not come up.
    pub(crate) async fn around(
        setting: &Setting,
        registry: Registry,
        local: IpAddr,
        replicas: usize,
    ) -> Result<Self> {
        let bed = Self { local, ..Self::on(setting, registry, None)? };
        bed.filled(replicas).await
    }

    /// A bed without replicas around a registry that runs.
    fn on(setting: &Setting, registry: Registry, hosts: Option<Hosts>) -> Result<Self> {
        let local = Ipv4Addr::LOCALHOST.into();
        let consul = registry.client()?;
        let view = ConsulResolver::new(consul.clone()).resolve(&SERVICE.parse()?);
        Ok(Self { setting: setting.clone(), registry, replicas: Vec::new(), consul, view, local, hosts })
    }

    async fn filled(mut self, replicas: usize) -> Result<Self> {
        for _ in 0..replicas {
            self.add(&[])?;
        }
        self.all_passing().await?;
        Ok(self)
    }

    /// Starts another replica with these further arguments; its index.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn add(&mut self, args: &[&str]) -> Result<usize> {
        self.add_to(SERVICE, args)
    }

    /// The same of another service.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn add_to(&mut self, service: &'static str, args: &[&str]) -> Result<usize> {
        let index = self.replicas.len();
        let host = self.hosts.as_ref().zip(u8::try_from(index).ok());
        let port = ports::free()?;
        let place = match host {
            Some((hosts, n)) => {
                Place { listen: SocketAddr::new(hosts.address(n), port.port()), through: hosts.on(n) }
            }
            None => Place { listen: SocketAddr::new(self.local, port.port()), through: Vec::new() },
        };
        let name = format!("{service}-{}", index + 1);
        let url = self.registry.url();
        let replica = Replica::start(&name, service, place, Some(&url), args, &self.setting)?;
        self.replicas.push(replica);
        Ok(index)
    }

    /// What the registry says of the replicas, from now on.
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
            let waited = timeout(UP, view.wait_for(|now| passes(now, id))).await;
            waited.with_context(|| format!("{id} does not pass within {UP:?}"))??;
        }
        Ok(())
    }

    /// The channel that the load calls through.
    ///
    /// # Errors
    /// Never in fact: the settings are ours.
    pub(crate) fn channel(&self) -> Result<Channel> {
        self.channel_with(self.setting.channel_config())
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// Never in fact: the settings are ours.
    pub(crate) fn channel_with(&self, config: ChannelConfig) -> Result<Channel> {
        Ok(self.setting.mesh(self.consul.clone(), config)?.channel(SERVICE))
    }

    /// How many instances of [`SERVICE`] the registry has, and how many of them
    /// pass, asked straight.
    pub(crate) async fn listed(&self) -> (usize, usize) {
        let entries = self.consul.health(SERVICE, &HealthQuery::default()).await.unwrap_or_default();
        let passing = |e: &&HealthEntry| e.checks.iter().all(|c| c.status == CheckStatus::Passing);
        (entries.len(), entries.iter().filter(passing).count())
    }

    /// How long it takes from now until that many are registered, and until
    /// that many pass; `None` for what does not come within `limit`.
    pub(crate) async fn until_listed(&self, count: usize, limit: Duration) -> [Option<Duration>; 2] {
        let began = Instant::now();
        let mut seen = [None, None];
        while began.elapsed() < limit && seen[1].is_none() {
            let (registered, passing) = self.listed().await;
            for (seen, now) in seen.iter_mut().zip([registered, passing]) {
                if now >= count {
                    seen.get_or_insert(began.elapsed());
                }
            }
            // An agent tells nobody who asks so, so it is asked again.
            sleep(Duration::from_millis(20)).await;
        }
        seen
    }
}

/// Whether the registry shows that instance passing.
pub(crate) fn passes(now: &Resolution, id: &InstanceId) -> bool {
    let listed = now.instances.iter().flat_map(|all| all.iter());
    listed.into_iter().any(|i| i.id == *id && i.health == InstanceHealth::Passing)
}

/// The id under which a replica registers.
///
/// # Errors
/// When the service's name is none.
fn id_of(service: &str, listen: SocketAddr) -> Result<InstanceId> {
    Ok(InstanceId::new(&instance_id(&service.parse()?, &listen.into())))
}
