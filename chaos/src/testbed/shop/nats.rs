//! A real NATS server with `JetStream`, which can be killed and comes back where
//! it was.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::testbed::{
    ScenarioSetting,
    child::{ChildProcess, this_program},
    ports,
};

/// How long it may take until it answers.
const START: Duration = Duration::from_secs(20);

/// The server, running or not.
#[derive(Debug)]
pub(crate) struct Nats {
    listen: SocketAddr,
    logs: PathBuf,
    child: Option<ChildProcess>,
}

impl Nats {
    /// Starts one that keeps its data beside the logs.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) async fn start(setting: &ScenarioSetting) -> Result<Self> {
        let mut server = Self { listen: ports::free()?, logs: setting.logs.clone(), child: None };
        server.restart().await?;
        Ok(server)
    }

    /// As `NATS_URL` has it.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.listen)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().context("the NATS server does not run")?.kill().await
    }

    /// Starts it where it was, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up; holds its last words.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let mut words = this_program(&["tether", "--", "nats-server", "-js"])?;
        let (host, port) = (self.listen.ip().to_string(), self.listen.port().to_string());
        words.extend(["-a", &host, "-p", &port, "-sd"].map(OsString::from));
        words.push(self.logs.join("nats").into());
        let child = self.child.insert(ChildProcess::start("nats", &words, &self.logs)?);
        let until = Instant::now() + START;
        // It tells nobody when it is ready, so it is asked.
        while TcpStream::connect(self.listen).await.is_err() {
            let late = Instant::now() > until;
            ensure!(!late, "the NATS server does not answer (`cargo xtask setup`):\n{}", child.log_tail());
            sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }
}
