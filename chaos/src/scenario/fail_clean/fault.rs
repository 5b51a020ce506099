//! Faults in the resources of a running process.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::time::{Instant, sleep};

use crate::{
    setting::ScenarioSetting,
    testbed::{child::ChildProcess, shop::Shop},
};

/// The limit on attaching and detaching strace.
const STRACE_TIMEOUT: Duration = Duration::from_secs(20);
/// The file limit: standard input, output and error, so that no further file
/// can be opened.
const FILE_LIMIT: u64 = 3;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// System calls in the syntax of strace's `trace`, with an end in that of its
    /// `inject`.
    Calls(&'static str, &'static str),
    /// No file descriptor is left.
    Files,
    /// The database server is killed.
    Server,
}

/// A fault that is active.
#[derive(Debug)]
pub(super) enum ActiveFault {
    Calls(Box<ChildProcess>),
    Files(Pid, Rlimit),
    Server,
}

impl Fault {
    /// Injects the fault; returns once it holds for the whole process.
    pub(super) async fn inject(
        self,
        victim: Pid,
        shop: &mut Shop,
        setting: &ScenarioSetting,
    ) -> Result<ActiveFault> {
        match self {
            Self::Calls(calls, inject) => {
                let (trace, injection) = (format!("trace={calls}"), format!("inject={calls}:{inject}"));
                let pid = victim.as_raw_nonzero().to_string();
                let message =
                    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &injection, "-p", &pid];
                let child = ChildProcess::start("strace", &message.map(Into::into), &setting.logs)?;
                wait_attached(victim, &child).await?;
                Ok(ActiveFault::Calls(Box::new(child)))
            }
            Self::Files => {
                let few = Rlimit { current: Some(FILE_LIMIT), ..getrlimit(Resource::Nofile) };
                let before =
                    prlimit(Some(victim), Resource::Nofile, few).context("could not lower the file limit")?;
                Ok(ActiveFault::Files(victim, before))
            }
            Self::Server => {
                shop.postgres()?.kill().await?;
                Ok(ActiveFault::Server)
            }
        }
    }

    /// Returns whether nothing can be written during the fault.
    pub(super) fn is_total(self) -> bool {
        self != Self::Files
    }
}

impl ActiveFault {
    pub(super) async fn end(self, shop: &mut Shop) -> Result<()> {
        match self {
            Self::Calls(mut strace) => {
                // strace detaches on SIGTERM; on SIGKILL it might not.
                strace.signal(Signal::TERM)?;
                strace.wait_exit(STRACE_TIMEOUT).await.map(drop)
            }
            Self::Files(victim, before) => {
                let restored = prlimit(Some(victim), Resource::Nofile, before);
                restored.map(drop).context("could not restore the file limit")
            }
            Self::Server => shop.postgres()?.restart().await,
        }
    }
}

/// Waits until every thread is traced.
async fn wait_attached(victim: Pid, strace: &ChildProcess) -> Result<()> {
    let until = Instant::now() + STRACE_TIMEOUT;
    while !is_traced(victim).unwrap_or(false) {
        let message = || format!("strace could not attach; run this as root:\n{}", strace.log_tail());
        ensure!(Instant::now() < until, message());
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn is_traced(victim: Pid) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{}/task", victim.as_raw_nonzero()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        if status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|id| id.trim() == "0")) {
            return Ok(false);
        }
    }
    Ok(true)
}
