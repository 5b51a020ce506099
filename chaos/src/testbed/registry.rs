//! The registry of a testbed: consul-dev or a real Consul, as a process that
//! can be killed, wiped and restarted at the same address.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::consul::Client;
use tokio::time::{Instant, sleep};

use super::{
    child::{ChildProcess, this_program},
    ports,
};
use crate::setting::ScenarioSetting;

/// The limit on a registry's leader election.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The kind of registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistryKind {
    /// consul-dev, which keeps no data.
    Dev,
    /// A real Consul: one server that keeps its data.
    Consul,
}

/// A registry, running or not.
#[derive(Debug)]
pub(crate) struct Registry {
    kind: RegistryKind,
    setting: ScenarioSetting,
    listen: SocketAddr,
    /// The ports for gRPC, gRPC with TLS, LAN, WAN and servers of a Consul.
    other_ports: [u16; 5],
    data: PathBuf,
    child: Option<ChildProcess>,
}

impl Registry {
    /// Starts a registry and waits until it has a leader.
    ///
    /// # Errors
    /// When it does not start; quotes its last lines.
    pub(crate) async fn start(kind: RegistryKind, setting: &ScenarioSetting) -> Result<Self> {
        Self::start_on(kind, Ipv4Addr::LOCALHOST.into(), setting).await
    }

    /// Starts a registry on another address of this host.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub(crate) async fn start_on(
        kind: RegistryKind,
        host: IpAddr,
        setting: &ScenarioSetting,
    ) -> Result<Self> {
        let mut registry = Self::prepare(kind, host, setting)?;
        registry.restart().await?;
        Ok(registry)
    }

    /// A registry that runs at `listen` and is stopped elsewhere.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) fn running_at(listen: SocketAddr, setting: &ScenarioSetting) -> Result<Self> {
        Ok(Self { listen, ..Self::prepare(RegistryKind::Consul, listen.ip(), setting)? })
    }

    fn prepare(kind: RegistryKind, host: IpAddr, setting: &ScenarioSetting) -> Result<Self> {
        let mut other_ports = [0; 5];
        for port in &mut other_ports {
            *port = ports::free()?.port();
        }
        let listen = SocketAddr::new(host, ports::free()?.port());
        let data = setting.logs.join(format!("consul-{}", listen.port()));
        Ok(Self { kind, setting: setting.clone(), listen, other_ports, data, child: None })
    }

    /// The address in the form of `CONSUL_HTTP_ADDR`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// A client of the registry.
    ///
    /// # Errors
    /// Never: the address is valid.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::builder(&self.url()).build()?)
    }

    /// Starts it again at its address, and waits until it has a leader.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let command = match self.kind {
            RegistryKind::Dev => this_program(&["registry", "--listen", &self.listen.to_string()])?,
            RegistryKind::Consul => self.consul()?,
        };
        let child = self.child.insert(ChildProcess::start("registry", &command, &self.setting.logs)?);
        let client = Client::builder(&format!("http://{}", self.listen)).build()?;
        let deadline = Instant::now() + START_TIMEOUT;
        // An agent sends no event when it is elected, so it is polled.
        while !matches!(client.leader().await, Ok(Some(_))) {
            anyhow::ensure!(Instant::now() < deadline, "the registry has no leader:\n{}", child.log_tail());
            sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().context("the registry is not running")?.kill().await
    }

    /// Removes its data, while it is not running.
    ///
    /// # Errors
    /// When the data cannot be removed.
    pub(crate) fn wipe(&self) -> Result<()> {
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("could not wipe the registry")
            }
            _ => Ok(()),
        }
    }

    /// The child, to be signalled.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) fn child(&self) -> Result<&ChildProcess> {
        self.child.as_ref().context("the registry is not running")
    }

    /// The command line of a Consul.
    fn consul(&self) -> Result<Vec<OsString>> {
        let mut command = this_program(&["tether", "--"])?;
        command.push(self.setting.consul.clone().into());
        let host = self.listen.ip().to_string();
        command.extend(["agent", "-bind", &host, "-client", &host, "-node", "chaos"].map(OsString::from));
        command.extend(["-server", "-bootstrap-expect", "1"].map(OsString::from));
        let [grpc, tls, lan, wan, server] = self.other_ports;
        let settings = format!(
            "ports {{ http = {}  grpc = {grpc}  grpc_tls = {tls}  serf_lan = {lan}  serf_wan = {wan}  \
             server = {server}  dns = -1 }}  performance {{ raft_multiplier = 1 }}  \
             disable_update_check = true  log_level = \"warn\"",
            self.listen.port()
        );
        command.extend(["-hcl", &settings].map(OsString::from));
        command.extend(["-data-dir".into(), self.data.clone().into_os_string()]);
        Ok(command)
    }
}

/// `chaos registry`: consul-dev until standard input ends.
///
/// # Errors
/// When it cannot listen on the address.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let agent = consul_dev::Agent::bind(listen, consul_dev::Options::default()).await;
    let _agent = agent.with_context(|| format!("could not listen on {listen}"))?;
    tokio::task::spawn_blocking(|| io::stdin().lock().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
