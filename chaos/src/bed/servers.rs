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
    Setting,
    child::{Child, this},
    hosts::Hosts,
};

/// Where each answers HTTP.
const PORT: u16 = 8500;
/// How many there are.
const COUNT: u8 = 3;
/// How long they may take to elect a leader.
const ELECTION: Duration = Duration::from_secs(60);

/// The servers, running or not.
#[derive(Debug)]
pub(crate) struct Servers {
    setting: Setting,
    children: Vec<Option<Child>>,
    /// The last to be dropped.
    pub(crate) hosts: Hosts,
}

impl Servers {
    /// Starts them and waits until they have a leader.
    ///
    /// # Errors
    /// When they do not come up.
    pub(crate) async fn start(setting: &Setting) -> Result<Self> {
        let hosts = Hosts::new(COUNT)?;
        let mut servers = Self { setting: setting.clone(), children: Vec::new(), hosts };
        for n in 0..COUNT {
            servers.children.push(None);
            servers.begin(n.into())?;
        }
        servers.leader().await?;
        Ok(servers)
    }

    /// Where the first one, which is spared, answers.
    pub(crate) fn first(&self) -> SocketAddr {
        SocketAddr::new(self.hosts.address(0), PORT)
    }

    /// Waits until the leader is not the first; its number.
    ///
    /// # Errors
    /// When there is none in time.
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
            consul.output().await.context("could not ask Consul for another leader")?;
        }
        bail!("the first server will not give up its lead")
    }

    /// Their addresses.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        (0..COUNT).map(|n| self.hosts.address(n))
    }

    /// Starts server `n` with what it has kept.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn begin(&mut self, n: usize) -> Result<()> {
        let host = u8::try_from(n)?;
        let mut words = self.hosts.on(host);
        words.extend(this(&["tether", "--"])?);
        words.push(self.setting.consul.clone().into());
        let (address, name) = (self.hosts.address(host).to_string(), format!("server-{n}"));
        words.extend(["agent", "-server", "-bootstrap-expect", "3", "-node", &name].map(OsString::from));
        words.extend(["-bind", &address, "-client", &address, "-dns-port", "-1"].map(OsString::from));
        let more = "performance { raft_multiplier = 1 }  disable_update_check = true  log_level = \"warn\"";
        words.extend(["-hcl", more].map(OsString::from));
        if self.setting.lacks("stale reads") {
            // A stream is as stale as may be: without it, as Consul 1.9 is.
            words.extend(["-hcl", "use_streaming_backend = false"].map(OsString::from));
        }
        words.push("-data-dir".into());
        words.push(self.setting.logs.join(&name).into_os_string());
        for other in self.addresses() {
            words.extend(["-retry-join".into(), other.to_string().into()]);
        }
        self.children[n] = Some(Child::start(&name, &words, &self.setting.logs)?);
        Ok(())
    }

    /// `kill -9` of server `n`.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill(&mut self, n: usize) -> Result<()> {
        let mut child = self.children[n].take().context("the server does not run")?;
        child.signal(Signal::KILL)?;
        child.ended(ELECTION).await.map(drop)
    }

    /// Waits until one that runs is named leader; its number.
    ///
    /// # Errors
    /// When there is none in time.
    pub(crate) async fn leader(&self) -> Result<usize> {
        let until = Instant::now() + ELECTION;
        while Instant::now() < until {
            let running = self.addresses().enumerate().filter(|(n, _)| self.children[*n].is_some());
            for (_, address) in running {
                let client = Client::builder(&format!("http://{address}:{PORT}")).build()?;
                let asked = tokio::time::timeout(Duration::from_secs(1), client.leader()).await;
                let Ok(Ok(Some(leader))) = asked else { continue };
                let found = self.addresses().position(|a| leader.starts_with(&format!("{a}:")));
                if let Some(found) = found.filter(|found| self.children[*found].is_some()) {
                    return Ok(found);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("no leader within {ELECTION:?}")
    }
}
