//! The processes of `mesh up`: started, watched, started again, stopped.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use crate::{logging::open_log, up::shutdown::Shutdown};

/// The limit on a process's drain before it is killed.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// The first backoff before a crashed process is restarted; doubles up to
/// [`MAX_BACKOFF`], and is reset after [`BACKOFF_RESET_AFTER`] without a crash.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(30);

/// The command line and the log of a process.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// For people and for the log's name: `cart-service-1`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Variables that are added to, or replace, those of this process.
    pub(crate) env: Vec<(&'static str, OsString)>,
    pub(crate) log: PathBuf,
}

impl Program {
    /// Starts it in a process group of its own, so that a Ctrl-C at the
    /// terminal reaches only `mesh up`, which stops the others in order. Its
    /// standard input is a pipe that closes when this process dies, however
    /// it dies, or the returned end is dropped.
    ///
    /// # Errors
    /// When it cannot be started or its log not be written.
    pub(crate) fn start(&self) -> Result<(Child, Option<ChildStdin>)> {
        let log =
            open_log(&self.log).with_context(|| format!("could not open the log {}", self.log.display()))?;
        // Not killed on drop: a tether must live to end its program, and every
        // other process ends with the pipe.
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", self.path.display()))?;
        // Taken out, because waiting for a child closes its pipes.
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }
}

/// The last lines of a log, for a process that did not come up.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    const MAX_TAIL_BYTES: u64 = 16 << 10;
    let mut text = Vec::new();
    // A log that cannot be read has no last lines.
    let _ = File::open(path).and_then(|mut file| {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
        file.take(MAX_TAIL_BYTES).read_to_end(&mut text)
    });
    let text = String::from_utf8_lossy(&text);
    let last: Vec<_> = text.lines().rev().take(lines).collect();
    last.into_iter().rev().map(|l| format!("  {l}\n")).collect()
}

/// The start or end of the process of that name.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs.
    Started { name: String, pid: u32 },
    /// It ended, in words, and is restarted after `backoff`.
    Ended { name: String, how: String, backoff: Duration },
}

/// Processes that are restarted until they are stopped.
#[derive(Debug)]
pub(crate) struct Children {
    tasks: JoinSet<()>,
}

impl Children {
    /// Starts all at once and reports to `events`.
    pub(crate) fn start(programs: Vec<Program>, events: &mpsc::Sender<Event>, shutdown: &Shutdown) -> Self {
        let mut tasks = JoinSet::new();
        for program in programs {
            tasks.spawn(supervise(program, events.clone(), shutdown.clone()));
        }
        Self { tasks }
    }

    /// Waits until all have ended, which they do on shutdown.
    pub(crate) async fn wait_all(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Runs one process, and restarts it, until shutdown.
async fn supervise(program: Program, events: mpsc::Sender<Event>, shutdown: Shutdown) {
    let mut backoff = INITIAL_BACKOFF;
    let name = || program.name.clone();
    loop {
        let started = Instant::now();
        let how = match program.start() {
            Err(error) => format!("could not be started: {error:#}"),
            Ok((mut child, _pipe)) => {
                if let Some(pid) = child.id() {
                    let _ = events.send(Event::Started { name: name(), pid }).await;
                }
                tokio::select! {
                    ended = child.wait() => describe(ended),
                    () = shutdown.requested() => return end(&program.name, &mut child, STOP_TIMEOUT, &shutdown).await,
                }
            }
        };
        if started.elapsed() > BACKOFF_RESET_AFTER {
            backoff = INITIAL_BACKOFF;
        }
        let _ = events.send(Event::Ended { name: name(), how, backoff }).await;
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = shutdown.requested() => return,
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Sends SIGTERM to a process and waits for it; kills it after `timeout`, or on
/// a forced shutdown.
pub(crate) async fn end(name: &str, child: &mut Child, timeout: Duration, shutdown: &Shutdown) {
    // The id is there until the process was waited for, so it is still ours.
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(timeout) => {
            tracing::warn!("{name} did not stop within {timeout:?} and is killed");
        }
        () = shutdown.forced() => {}
    }
    let _ = child.kill().await;
}

/// Describes the end of a process in words.
pub(crate) fn describe(wait_all: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match wait_all {
        Err(error) => format!("could not be waited for: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}{}", signal_name(signal)),
            (None, None) => format!("ended: {status}"),
        },
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &tempfile::TempDir, script: &str) -> Program {
        Program {
            name: "test".into(),
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("GREETING", "hello".into())],
            log: dir.path().join("test.log"),
        }
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
        tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_process_that_ends_is_restarted_after_a_growing_backoff() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let shutdown = Shutdown::default();
        let program = shell(&dir, "echo $GREETING; exit 3");
        let mut children = Children::start(vec![program], &sender, &shutdown);
        let mut waits = Vec::new();
        while waits.len() < 2 {
            if let Event::Ended { how, backoff, .. } = next(&mut events).await {
                assert_eq!(how, "ended with exit code 3");
                waits.push(backoff);
            }
        }
        assert_eq!(waits, [INITIAL_BACKOFF, INITIAL_BACKOFF * 2]);
        shutdown.begin();
        children.wait_all().await;
        assert!(tail(&dir.path().join("test.log"), 1).contains("hello"));
    }

    #[tokio::test]
    async fn stopping_sends_sigterm_first_and_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let script = "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let shutdown = Shutdown::default();
        let mut children = Children::start(vec![shell(&dir, script)], &sender, &shutdown);
        assert!(matches!(next(&mut events).await, Event::Started { .. }));
        let log = dir.path().join("test.log");
        while !tail(&log, 9).contains("up") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.begin();
        children.wait_all().await;
        assert!(tail(&log, 1).contains("drained"));
    }

    #[tokio::test]
    async fn the_signal_that_ended_a_process_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, _pipe) = shell(&dir, "kill -9 $$").start().unwrap();
        assert_eq!(describe(child.wait().await), "was ended by signal 9 (SIGKILL)");
    }
}
