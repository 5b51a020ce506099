//! The registry of a bed: consul-dev or a real Consul, each a process that can
//! be killed, wiped and started again at the same address.

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
    Setting,
    child::{Child, this},
    ports,
};

/// How long a registry may take to lead.
const START: Duration = Duration::from_secs(30);

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, which keeps nothing.
    Dev,
    /// The real one: one server that keeps its data.
    Consul,
}

/// A registry, running or not.
#[derive(Debug)]
pub(crate) struct Registry {
    kind: Kind,
    setting: Setting,
    listen: SocketAddr,
    /// gRPC, gRPC with TLS, LAN, WAN and servers of a Consul.
    others: [u16; 5],
    data: PathBuf,
    child: Option<Child>,
}

impl Registry {
    /// Starts one and waits until it leads.
    ///
    /// # Errors
    /// When it does not come up; holds its last words.
    pub(crate) async fn start(kind: Kind, setting: &Setting) -> Result<Self> {
        Self::start_on(kind, Ipv4Addr::LOCALHOST.into(), setting).await
    }

    /// The same on another address of this host.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub(crate) async fn start_on(kind: Kind, host: IpAddr, setting: &Setting) -> Result<Self> {
        let mut registry = Self::planned(kind, host, setting)?;
        registry.begin().await?;
        Ok(registry)
    }

    /// One that somebody else has started at `listen` and stops.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) fn elsewhere(listen: SocketAddr, setting: &Setting) -> Result<Self> {
        Ok(Self { listen, ..Self::planned(Kind::Consul, listen.ip(), setting)? })
    }

    fn planned(kind: Kind, host: IpAddr, setting: &Setting) -> Result<Self> {
        let mut others = [0; 5];
        for port in &mut others {
            *port = ports::free()?.port();
        }
        let listen = SocketAddr::new(host, ports::free()?.port());
        let data = setting.logs.join(format!("consul-{}", listen.port()));
        Ok(Self { kind, setting: setting.clone(), listen, others, data, child: None })
    }

    /// Its address, as `CONSUL_HTTP_ADDR` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// A client of it.
    ///
    /// # Errors
    /// Never in fact: the address is ours.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::builder(&self.url()).build()?)
    }

    /// Starts it again where it was, and waits until it leads.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub(crate) async fn begin(&mut self) -> Result<()> {
        let words = match self.kind {
            Kind::Dev => this(&["registry", "--listen", &self.listen.to_string()])?,
            Kind::Consul => self.consul()?,
        };
        let child = self.child.insert(Child::start("registry", &words, &self.setting.logs)?);
        let client = Client::builder(&format!("http://{}", self.listen)).build()?;
        let until = Instant::now() + START;
        // An agent tells nobody when it leads, so it is asked.
        while !matches!(client.leader().await, Ok(Some(_))) {
            anyhow::ensure!(Instant::now() < until, "the registry does not lead:\n{}", child.last_words());
            sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().context("the registry does not run")?.kill().await
    }

    /// Removes what it keeps, while it does not run.
    ///
    /// # Errors
    /// When that cannot be removed.
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
    /// When it does not run.
    pub(crate) fn child(&self) -> Result<&Child> {
        self.child.as_ref().context("the registry does not run")
    }

    /// The command line of a Consul.
    fn consul(&self) -> Result<Vec<OsString>> {
        let mut words = this(&["tether", "--"])?;
        words.push(self.setting.consul.clone().into());
        let host = self.listen.ip().to_string();
        words.extend(["agent", "-bind", &host, "-client", &host, "-node", "chaos"].map(OsString::from));
        words.extend(["-server", "-bootstrap-expect", "1"].map(OsString::from));
        let [grpc, tls, lan, wan, server] = self.others;
        let settings = format!(
            "ports {{ http = {}  grpc = {grpc}  grpc_tls = {tls}  serf_lan = {lan}  serf_wan = {wan}  \
             server = {server}  dns = -1 }}  performance {{ raft_multiplier = 1 }}  \
             disable_update_check = true  log_level = \"warn\"",
            self.listen.port()
        );
        words.extend(["-hcl", &settings].map(OsString::from));
        words.extend(["-data-dir".into(), self.data.clone().into_os_string()]);
        Ok(words)
    }
}

/// `chaos registry`: consul-dev until standard input ends.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let agent = consul_dev::Agent::bind(listen, consul_dev::Options::default()).await;
    let _agent = agent.with_context(|| format!("could not listen on {listen}"))?;
    tokio::task::spawn_blocking(|| io::stdin().lock().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
