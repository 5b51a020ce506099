//! strace attached to a running process: it traces its writes, or kills it at
//! one.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

use crate::testbed::child::ChildProcess;

/// The system calls at which a process is killed; the parent module gives the
/// reason.
const TRACED_CALLS: [&str; 8] =
    ["pwrite64", "pwritev", "pwritev2", "fdatasync", "fsync", "sendto", "sendmsg", "writev"];
/// The limit on detaching strace.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

/// The `nth` time, from 1, that a thread makes this system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CrashPoint {
    pub(super) call: String,
    pub(super) nth: usize,
}

/// An attached strace.
#[derive(Debug)]
pub(super) struct Tracer {
    child: ChildProcess,
    trace: PathBuf,
}

impl Tracer {
    /// Traces the writes of that process; it is attached when this returns.
    ///
    /// # Errors
    /// When strace is missing or may not attach.
    pub(super) async fn trace_writes(pid: Pid, name: &str, logs: &Path) -> Result<Self> {
        Self::attach(pid, &TRACED_CALLS.join(","), None, name, logs).await
    }

    /// Kills that process at a point, before the call has any effect; calls are
    /// counted from when this returns.
    ///
    /// # Errors
    /// When strace is missing or may not attach.
    pub(super) async fn kill_at(pid: Pid, at: &CrashPoint, name: &str, logs: &Path) -> Result<Self> {
        let inject = format!("inject={}:signal=KILL:when={}", at.call, at.nth);
        Self::attach(pid, &at.call, Some(&inject), name, logs).await
    }

    async fn attach(pid: Pid, calls: &str, inject: Option<&str>, name: &str, logs: &Path) -> Result<Self> {
        let trace = logs.join(format!("{name}.trace"));
        let filter = format!("trace={calls}");
        let pid = pid.as_raw_nonzero().to_string();
        let mut command = ["sh", "-c", "exec strace \"$@\" 2>&1", "sh", "-f", "-s", "0", "-e", "signal=none"]
            .map(OsString::from)
            .to_vec();
        command.extend(["-p", &pid, "-e", &filter].map(OsString::from));
        command.extend(inject.into_iter().flat_map(|inject| ["-e", inject]).map(OsString::from));
        command.extend(["-o".into(), trace.clone().into_os_string()]);
        let mut child = ChildProcess::start(&format!("{name}-strace"), &command, logs)?;
        child.wait_for_line("strace: Process").await.context("strace cannot attach (`cargo xtask setup`)")?;
        Ok(Self { child, trace })
    }

    /// Detaches strace; returns the traced points in order, each once.
    ///
    /// # Errors
    /// When strace does not end.
    pub(super) async fn detach(mut self) -> Result<Vec<CrashPoint>> {
        // strace may have ended with its process.
        let _ = self.child.signal(Signal::TERM);
        self.child.wait_exit(DETACH_TIMEOUT).await?;
        Ok(points(&fs::read_to_string(&self.trace).context("could not read the trace")?))
    }
}

/// The points of a trace. strace counts for each thread separately: the first
/// thread that reaches a point is killed there, and all others with it.
fn points(trace: &str) -> Vec<CrashPoint> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let mut points: Vec<CrashPoint> = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !TRACED_CALLS.contains(&call) {
            continue;
        }
        let nth = counts.entry((thread, call)).or_default();
        *nth += 1;
        let point = CrashPoint { call: call.to_owned(), nth: *nth };
        if !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_the_first_time_that_a_thread_makes_a_call_so_often() {
        let trace = "\
7     pwrite64(5, \"\"..., 24, 0) = 24
7     fdatasync(5 <unfinished ...>
9     pwrite64(5, \"\"..., 24, 0) = 24
7     <... fdatasync resumed>) = 0
7     futex(0x1, FUTEX_WAKE_PRIVATE, 1) = 1
7     pwrite64(5, \"\"..., 24, 0) = 24
7     +++ killed by SIGKILL +++
";
        let found: Vec<_> = points(trace).into_iter().map(|point| (point.call, point.nth)).collect();
        let expected = [("pwrite64", 1), ("fdatasync", 1), ("pwrite64", 2)];
        assert_eq!(found, expected.map(|(call, nth)| (call.to_owned(), nth)));
    }
}
