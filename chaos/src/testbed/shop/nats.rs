//! A real NATS server with `JetStream`, which can be killed and restarted at its
//! address.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    setting::ScenarioSetting,
    testbed::{
        child::{ChildProcess, this_program},
        ports,
    },
};

/// The limit on the server's start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The server, running or not.
#[derive(Debug)]
pub(crate) struct Nats {
    listen: SocketAddr,
    logs: PathBuf,
    child: Option<ChildProcess>,
}

impl Nats {
    /// Starts a server with its data beside the logs.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn start(setting: &ScenarioSetting) -> Result<Self> {
        let mut server = Self { listen: ports::free()?, logs: setting.logs.clone(), child: None };
        server.restart().await?;
        Ok(server)
    }

    /// The URL in the form of `NATS_URL`.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.listen)
    }

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().context("the NATS server is not running")?.kill().await
    }

    /// Starts the server again at its address, and waits until it responds.
    ///
    /// # Errors
    /// When it does not start; quotes its last lines.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let mut command = this_program(&["tether", "--", "nats-server", "-js"])?;
        let (host, port) = (self.listen.ip().to_string(), self.listen.port().to_string());
        command.extend(["-a", &host, "-p", &port, "-sd"].map(OsString::from));
        command.push(self.logs.join("nats").into());
        let child = self.child.insert(ChildProcess::start("nats", &command, &self.logs)?);
        let deadline = Instant::now() + START_TIMEOUT;
        // The server sends no event when it is ready, so it is polled.
        while TcpStream::connect(self.listen).await.is_err() {
            let timed_out = Instant::now() > deadline;
            ensure!(
                !timed_out,
                "the NATS server does not respond (`cargo xtask setup` installs it):\n{}",
                child.log_tail()
            );
            sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }
}
