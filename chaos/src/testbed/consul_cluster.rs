//! Three Consul servers, each on a host of its own.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use registry_client::consul::Client;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{
    child::{ChildProcess, this_program},
    hosts::Hosts,
};
use crate::setting::ScenarioSetting;

/// The HTTP port of each server.
const HTTP_PORT: u16 = 8500;
/// The number of servers.
const COUNT: u8 = 3;
/// The limit on an election.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The servers, running or not.
#[derive(Debug)]
pub(crate) struct ConsulCluster {
    setting: ScenarioSetting,
    children: Vec<Option<ChildProcess>>,
    /// The hosts; dropped last.
    pub(crate) hosts: Hosts,
}

impl ConsulCluster {
    /// Starts them and waits until they have a leader.
    ///
    /// # Errors
    /// When they do not start.
    pub(crate) async fn start(setting: &ScenarioSetting) -> Result<Self> {
        let hosts = Hosts::new(COUNT)?;
        let mut consul_cluster = Self { setting: setting.clone(), children: Vec::new(), hosts };
        for n in 0..COUNT {
            consul_cluster.children.push(None);
            consul_cluster.restart(n.into())?;
        }
        consul_cluster.leader().await?;
        Ok(consul_cluster)
    }

    /// The HTTP address of the first server, which is never killed.
    pub(crate) fn first(&self) -> SocketAddr {
        SocketAddr::new(self.hosts.address(0), HTTP_PORT)
    }

    /// Moves the leadership away from the first server; returns the leader's
    /// number.
    ///
    /// # Errors
    /// When there is no such leader in time.
    pub(crate) async fn other_leader(&self) -> Result<usize> {
        for _ in 0..20 {
            let leader = self.leader().await?;
            if leader != 0 {
                return Ok(leader);
            }
            let mut consul = tokio::process::Command::new(&self.setting.consul);
            consul
                .args(["operator", "raft", "transfer-leader"])
                .arg(format!("-http-addr=http://{}", self.first()));
            consul.output().await.context("could not transfer the leadership")?;
        }
        bail!("the first server keeps the leadership")
    }

    /// The addresses of the servers.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        (0..COUNT).map(|n| self.hosts.address(n))
    }

    /// Starts server `n` with its data.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn restart(&mut self, n: usize) -> Result<()> {
        let host = u8::try_from(n)?;
        let mut command = self.hosts.exec_prefix(host);
        command.extend(this_program(&["tether", "--"])?);
        command.push(self.setting.consul.clone().into());
        let (address, name) = (self.hosts.address(host).to_string(), format!("server-{n}"));
        command.extend(["agent", "-server", "-bootstrap-expect", "3", "-node", &name].map(OsString::from));
        command.extend(["-bind", &address, "-client", &address, "-dns-port", "-1"].map(OsString::from));
        let more = "performance { raft_multiplier = 1 }  disable_update_check = true  log_level = \"warn\"";
        command.extend(["-hcl", more].map(OsString::from));
        if self.setting.is_disabled("stale reads") {
            // Streaming reads are always stale; without it, as in Consul 1.9.
            command.extend(["-hcl", "use_streaming_backend = false"].map(OsString::from));
        }
        command.push("-data-dir".into());
        command.push(self.setting.logs.join(&name).into_os_string());
        for other in self.addresses() {
            command.extend(["-retry-join".into(), other.to_string().into()]);
        }
        self.children[n] = Some(ChildProcess::start(&name, &command, &self.setting.logs)?);
        Ok(())
    }

    /// `kill -9` of server `n`.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) async fn kill(&mut self, n: usize) -> Result<()> {
        let mut child = self.children[n].take().context("the server is not running")?;
        child.signal(Signal::KILL)?;
        child.wait_exit(ELECTION_TIMEOUT).await.map(drop)
    }

    /// Waits until a running server is the leader; returns its number.
    ///
    /// # Errors
    /// When there is no such leader in time.
    pub(crate) async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + ELECTION_TIMEOUT;
        while Instant::now() < deadline {
            let running = self.addresses().enumerate().filter(|(n, _)| self.children[*n].is_some());
            for (_, address) in running {
                let client = Client::builder(&format!("http://{address}:{HTTP_PORT}")).build()?;
                let response = tokio::time::timeout(Duration::from_secs(1), client.leader()).await;
                let Ok(Ok(Some(leader))) = response else { continue };
                let found = self.addresses().position(|a| leader.starts_with(&format!("{a}:")));
                if let Some(found) = found.filter(|found| self.children[*found].is_some()) {
                    return Ok(found);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("no leader within {ELECTION_TIMEOUT:?}")
    }
}
