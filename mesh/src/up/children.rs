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

use crate::{logging::open_log, up::stop::Stop};

/// How long a process may take to drain before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(15);
/// The first wait before a crashed process is started again; doubles up to
/// [`LONGEST_WAIT`], and starts over after [`STEADY`] without a crash.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(30);

/// A process that shall run.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// For people and for the log's name: `cart-service-1`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Added to, or in place of, what this process has.
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
        // Not killed on drop: a tether must live to end what it holds, and
        // every process of ours ends with the pipe.
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", self.path.display()))?;
        // Taken out, because waiting for a child closes what is left in it.
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }
}

/// The last lines of a log, for a process that did not come up.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    const MOST: u64 = 16 << 10;
    let mut text = Vec::new();
    // A log that cannot be read has no last words.
    let _ = File::open(path).and_then(|mut file| {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        file.take(MOST).read_to_end(&mut text)
    });
    let text = String::from_utf8_lossy(&text);
    let kept: Vec<_> = text.lines().rev().take(lines).collect();
    kept.into_iter().rev().map(|l| format!("  {l}\n")).collect()
}

/// What happened to the process of that name.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs.
    Started { name: String, pid: u32 },
    /// It ended, in words, and is started again after `wait`.
    Ended { name: String, how: String, wait: Duration },
}

/// Processes that are kept running until they are stopped.
#[derive(Debug)]
pub(crate) struct Children {
    tasks: JoinSet<()>,
}

impl Children {
    /// Starts all at once and tells `events` of them.
    pub(crate) fn start(programs: Vec<Program>, events: &mpsc::Sender<Event>, stop: &Stop) -> Self {
        let mut tasks = JoinSet::new();
        for program in programs {
            tasks.spawn(keep(program, events.clone(), stop.clone()));
        }
        Self { tasks }
    }

    /// Waits until all have ended, which they do once it is time to stop.
    pub(crate) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Keeps one process running until `stop`.
async fn keep(program: Program, events: mpsc::Sender<Event>, stop: Stop) {
    let mut wait = FIRST_WAIT;
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
                    () = stop.asked() => return end(&program.name, &mut child, GRACE, &stop).await,
                }
            }
        };
        if started.elapsed() > STEADY {
            wait = FIRST_WAIT;
        }
        let _ = events.send(Event::Ended { name: name(), how, wait }).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.asked() => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Asks a process to stop and waits for it; kills it after `grace`, or when
/// there is no more time.
pub(crate) async fn end(name: &str, child: &mut Child, grace: Duration, stop: &Stop) {
    // The id is there until the process was waited for, so it is still ours.
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(grace) => {
            tracing::warn!("{name} did not stop within {grace:?} and is killed");
        }
        () = stop.at_once() => {}
    }
    let _ = child.kill().await;
}

/// How a process ended, in words.
pub(crate) fn describe(ended: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match ended {
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
    async fn a_process_that_ends_is_started_again_after_a_growing_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let stop = Stop::default();
        let program = shell(&dir, "echo $GREETING; exit 3");
        let mut children = Children::start(vec![program], &sender, &stop);
        let mut waits = Vec::new();
        while waits.len() < 2 {
            if let Event::Ended { how, wait, .. } = next(&mut events).await {
                assert_eq!(how, "ended with exit code 3");
                waits.push(wait);
            }
        }
        assert_eq!(waits, [FIRST_WAIT, FIRST_WAIT * 2]);
        stop.begin();
        children.ended().await;
        assert!(tail(&dir.path().join("test.log"), 1).contains("hello"));
    }

    #[tokio::test]
    async fn stopping_asks_first_and_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let script = "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let stop = Stop::default();
        let mut children = Children::start(vec![shell(&dir, script)], &sender, &stop);
        assert!(matches!(next(&mut events).await, Event::Started { .. }));
        let log = dir.path().join("test.log");
        while !tail(&log, 9).contains("up") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.begin();
        children.ended().await;
        assert!(tail(&log, 1).contains("drained"));
    }

    #[tokio::test]
    async fn the_signal_that_ended_a_process_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, _pipe) = shell(&dir, "kill -9 $$").start().unwrap();
        assert_eq!(describe(child.wait().await), "was ended by signal 9 (SIGKILL)");
    }
}
