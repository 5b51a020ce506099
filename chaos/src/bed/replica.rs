//! One replica of the service that is called.

use std::{ffi::OsString, net::SocketAddr, os::unix::process::ExitStatusExt, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::{
    Make, Setting,
    child::{Child, this},
    id_of,
};

/// Where a replica listens, and the words that start it there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) listen: SocketAddr,
    pub(crate) through: Vec<OsString>,
}

/// A replica, running or not. It comes back under the same address and id.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: InstanceId,
    pub(crate) service: &'static str,
    pub(crate) listen: SocketAddr,
    name: String,
    words: Vec<OsString>,
    setting: Setting,
    child: Option<Child>,
}

impl Replica {
    /// Starts a replica of `service`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        name: &str,
        service: &'static str,
        Place { listen, through }: Place,
        registry: Option<&str>,
        args: &[&str],
        setting: &Setting,
    ) -> Result<Self> {
        let listen_at = listen.to_string();
        let mut words = through;
        match setting.make {
            Make::Ours => words.extend(this(&["serve"])?),
            Make::GrpcGo => words.push(setting.grpc_go.clone().into()),
            Make::GoHttp => words.extend([setting.grpc_go.clone().into(), "--http".into()]),
        }
        if setting.make != Make::Ours {
            words.extend(["--id".into(), id_of(service, listen)?.as_str().into()]);
        }
        words.extend(["--service", service, "--listen", &listen_at].map(OsString::from));
        if let Some(registry) = registry {
            words.extend(["--registry", registry].map(OsString::from));
        }
        if let Some(without) = setting.without {
            words.extend(["--without", without].map(OsString::from));
        }
        words.extend(args.iter().map(OsString::from));
        Self::of(name, service, listen, words, setting)
    }

    /// Starts a replica of `service` by `words`, which make it listen there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn of(
        name: &str,
        service: &'static str,
        listen: SocketAddr,
        words: Vec<OsString>,
        setting: &Setting,
    ) -> Result<Self> {
        let id = id_of(service, listen)?;
        let mut replica =
            Self { id, service, listen, name: name.to_owned(), words, setting: setting.clone(), child: None };
        replica.begin()?;
        Ok(replica)
    }

    /// Whether it was started and not ended since, by us.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        self.child.as_ref().map(Child::last_words).unwrap_or_default()
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.child = Some(Child::start(&self.name, &self.words, &self.setting.logs)?);
        Ok(())
    }

    /// `kill -9`; returns once it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().with_context(|| format!("{} does not run", self.name))?.kill().await
    }

    /// Waits until somebody else has killed it; `false` when nobody does within
    /// `limit`.
    pub(crate) async fn falls(&mut self, limit: Duration) -> bool {
        let Some(child) = self.child.as_mut() else { return false };
        let killed = child.ended(limit).await.is_ok_and(|status| status.signal() == Some(9));
        if killed {
            self.child = None;
        }
        killed
    }

    /// Asks it to stop by SIGTERM; how long that took.
    ///
    /// # Errors
    /// When it does not stop in half a minute, or fails.
    pub(crate) async fn stop(&mut self) -> Result<Duration> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        let began = Instant::now();
        child.signal(Signal::TERM)?;
        let status = child.ended(Duration::from_secs(30)).await?;
        anyhow::ensure!(status.success(), "{} ended with {status}:\n{}", self.name, child.last_words());
        Ok(began.elapsed())
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn process(&self) -> Result<Pid> {
        self.child.as_ref().with_context(|| format!("{} does not run", self.name))?.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.child.as_ref().with_context(|| format!("{} does not run", self.name))?.signal(signal)
    }

    /// Tells it how to behave; returns once it does.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn behave(&mut self, order: &str) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        child.tell(order).await?;
        child.hear("now ").await.map(drop)
    }

    /// What `/debug/mesh` of it would show of its server.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn state(&mut self) -> Result<serde_json::Value> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        child.tell("state").await?;
        let line = child.hear("state ").await?;
        let state: serde_json::Value = serde_json::from_str(&line).context("a state that cannot be read")?;
        state.pointer("/servers/0").cloned().context("no server runs")
    }

    /// What it has counted since it was last asked.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn report(&mut self) -> Result<crate::target::Report> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        child.tell("report").await?;
        let line = child.hear("report ").await?;
        serde_json::from_str(&line).context("a report that cannot be read")
    }
}
