//! What a process cannot do without, taken away while it runs.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::time::{Instant, sleep};

use crate::testbed::{ScenarioSetting, child::ChildProcess, shop::Shop};

/// How long strace may take to come and to go.
const STRACE: Duration = Duration::from_secs(20);
/// Standard input, output and error: no further file can be opened.
const NO_FILES: u64 = 3;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// System calls, as strace's `trace` has them, that end as its `inject` has
    /// it.
    Calls(&'static str, &'static str),
    /// No file descriptor is left.
    Files,
    /// The database server is killed.
    Server,
}

/// One that lasts.
#[derive(Debug)]
pub(super) enum Lasting {
    Calls(Box<ChildProcess>),
    Files(Pid, Rlimit),
    Server,
}

impl Fault {
    /// Begins it; returns once it holds for the whole process.
    pub(super) async fn inject(
        self,
        victim: Pid,
        shop: &mut Shop,
        setting: &ScenarioSetting,
    ) -> Result<Lasting> {
        match self {
            Self::Calls(calls, ends) => {
                let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{ends}"));
                let pid = victim.as_raw_nonzero().to_string();
                let words =
                    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid];
                let child = ChildProcess::start("strace", &words.map(Into::into), &setting.logs)?;
                attached(victim, &child).await?;
                Ok(Lasting::Calls(Box::new(child)))
            }
            Self::Files => {
                let few = Rlimit { current: Some(NO_FILES), ..getrlimit(Resource::Nofile) };
                let before =
                    prlimit(Some(victim), Resource::Nofile, few).context("could not take its files")?;
                Ok(Lasting::Files(victim, before))
            }
            Self::Server => {
                shop.postgres()?.kill().await?;
                Ok(Lasting::Server)
            }
        }
    }

    /// Whether it leaves nothing that can be written.
    pub(super) fn is_total(self) -> bool {
        self != Self::Files
    }
}

impl Lasting {
    pub(super) async fn end(self, shop: &mut Shop) -> Result<()> {
        match self {
            Self::Calls(mut strace) => {
                // On SIGTERM it lets go of the process; on SIGKILL it might not.
                strace.signal(Signal::TERM)?;
                strace.wait_exit(STRACE).await.map(drop)
            }
            Self::Files(victim, before) => {
                let restored = prlimit(Some(victim), Resource::Nofile, before);
                restored.map(drop).context("could not give its files back")
            }
            Self::Server => shop.postgres()?.restart().await,
        }
    }
}

/// Waits until every thread is traced.
async fn attached(victim: Pid, strace: &ChildProcess) -> Result<()> {
    let until = Instant::now() + STRACE;
    while !is_traced(victim).unwrap_or(false) {
        let words = || format!("strace could not attach; run this as root:\n{}", strace.log_tail());
        ensure!(Instant::now() < until, words());
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
