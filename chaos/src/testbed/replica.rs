//! One replica of the service that is called.

use std::{ffi::OsString, net::SocketAddr, os::unix::process::ExitStatusExt, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::{
    child::{ChildProcess, this_program},
    instance_id_of,
};
use crate::setting::{ScenarioSetting, ServerKind};

/// The address of a replica, and the command prefix that starts it there.
#[derive(Clone, Debug)]
pub(crate) struct LaunchSpec {
    pub(crate) listen: SocketAddr,
    pub(crate) wrapper: Vec<OsString>,
}

/// A replica, running or not. A restart keeps its address and id.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: InstanceId,
    pub(crate) service: &'static str,
    pub(crate) listen: SocketAddr,
    name: String,
    command: Vec<OsString>,
    setting: ScenarioSetting,
    child: Option<ChildProcess>,
}

impl Replica {
    /// Starts a replica of `service`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        name: &str,
        service: &'static str,
        LaunchSpec { listen, wrapper }: LaunchSpec,
        registry: Option<&str>,
        args: &[&str],
        setting: &ScenarioSetting,
    ) -> Result<Self> {
        let listen_at = listen.to_string();
        let mut command = wrapper;
        match setting.server_kind {
            ServerKind::Consort => command.extend(this_program(&["serve"])?),
            ServerKind::GrpcGo => command.push(setting.grpc_go.clone().into()),
            ServerKind::GoHttp => command.extend([setting.grpc_go.clone().into(), "--http".into()]),
        }
        if setting.server_kind != ServerKind::Consort {
            command.extend(["--id".into(), instance_id_of(service, listen)?.as_str().into()]);
        }
        command.extend(["--service", service, "--listen", &listen_at].map(OsString::from));
        if let Some(registry) = registry {
            command.extend(["--registry", registry].map(OsString::from));
        }
        if let Some(without) = setting.without {
            command.extend(["--without", without].map(OsString::from));
        }
        command.extend(args.iter().map(OsString::from));
        Self::of(name, service, listen, command, setting)
    }

    /// Starts a replica of `service` by `command`, which makes it listen on
    /// `listen`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn of(
        name: &str,
        service: &'static str,
        listen: SocketAddr,
        command: Vec<OsString>,
        setting: &ScenarioSetting,
    ) -> Result<Self> {
        let id = instance_id_of(service, listen)?;
        let mut replica = Self {
            id,
            service,
            listen,
            name: name.to_owned(),
            command,
            setting: setting.clone(),
            child: None,
        };
        replica.restart()?;
        Ok(replica)
    }

    /// Returns whether the harness started it and has not stopped it since.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The last lines of the log.
    pub(crate) fn log_tail(&self) -> String {
        self.child.as_ref().map(ChildProcess::log_tail).unwrap_or_default()
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child = Some(ChildProcess::start(&self.name, &self.command, &self.setting.logs)?);
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().with_context(|| format!("{} is not running", self.name))?.kill().await
    }

    /// Waits until another process kills it; false if none does within `limit`.
    pub(crate) async fn was_killed_within(&mut self, limit: Duration) -> bool {
        let Some(child) = self.child.as_mut() else { return false };
        let killed = child.wait_exit(limit).await.is_ok_and(|status| status.signal() == Some(9));
        if killed {
            self.child = None;
        }
        killed
    }

    /// Stops it by SIGTERM; returns the time that it took.
    ///
    /// # Errors
    /// When it does not stop within 30 s, or fails.
    pub(crate) async fn stop(&mut self) -> Result<Duration> {
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.name))?;
        let began = Instant::now();
        child.signal(Signal::TERM)?;
        let status = child.wait_exit(Duration::from_secs(30)).await?;
        anyhow::ensure!(status.success(), "{} ended with {status}:\n{}", self.name, child.log_tail());
        Ok(began.elapsed())
    }

    /// The process id.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) fn process(&self) -> Result<Pid> {
        self.child.as_ref().with_context(|| format!("{} is not running", self.name))?.pid()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.child.as_ref().with_context(|| format!("{} is not running", self.name))?.signal(signal)
    }

    /// Sets its behaviour and waits for the acknowledgement.
    ///
    /// # Errors
    /// When it does not respond.
    pub(crate) async fn set_behaviour(&mut self, command_line: &str) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} is not running", self.name))?;
        child.send_line(command_line).await?;
        child.wait_for_line("now ").await.map(drop)
    }

    /// The state of its server, as in `/debug/mesh`.
    ///
    /// # Errors
    /// When it does not respond.
    pub(crate) async fn state(&mut self) -> Result<serde_json::Value> {
        let child = self.child.as_mut().with_context(|| format!("{} is not running", self.name))?;
        child.send_line("state").await?;
        let line = child.wait_for_line("state ").await?;
        let state: serde_json::Value = serde_json::from_str(&line).context("a state that cannot be read")?;
        state.pointer("/servers/0").cloned().context("no server runs")
    }

    /// The counters since the last report.
    ///
    /// # Errors
    /// When it does not respond.
    pub(crate) async fn report(&mut self) -> Result<crate::target::Report> {
        let child = self.child.as_mut().with_context(|| format!("{} is not running", self.name))?;
        child.send_line("report").await?;
        let line = child.wait_for_line("report ").await?;
        serde_json::from_str(&line).context("a report that cannot be read")
    }
}
