//! A process of the testbed, controlled by its standard input, read by its
//! standard output, and ended with the harness.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};

/// The limit on waiting for a line.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(20);
/// The limit on lines that wait to be read; more are only logged.
const MAX_QUEUED_LINES: usize = 256;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    name: String,
    process: tokio::process::Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl ChildProcess {
    /// Starts `command`, a program and its arguments. The output is appended to
    /// the log of that name in `logs`.
    ///
    /// # Errors
    /// When it cannot be started, or its log cannot be written.
    pub(crate) fn start(name: &str, command: &[OsString], logs: &Path) -> Result<Self> {
        let (program, args) = command.split_first().context("no program is given")?;
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("could not write {}", log.display()))?;
        let mut log_copy = file.try_clone().context("could not share the log")?;
        let mut process = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // The terminal's Ctrl-C is for the harness only.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.context("a child without pipes")?;
        let (sender, lines) = mpsc::channel(MAX_QUEUED_LINES);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The pipe must not fill up, even with a full disk or without a
                // reader.
                let _ = writeln!(log_copy, "{line}");
                let _ = sender.try_send(line);
            }
        });
        Ok(Self { name: name.to_owned(), process, input, lines, log })
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) async fn send_line(&mut self, line: &str) -> Result<()> {
        let sent = self.input.write_all(format!("{line}\n").as_bytes()).await;
        sent.with_context(|| format!("could not send `{line}` to {}", self.name))
    }

    /// Waits for the next line that begins with `word`, and returns its rest.
    ///
    /// # Errors
    /// When the process ends or prints no such line in time; quotes its last
    /// lines.
    pub(crate) async fn wait_for_line(&mut self, word: &str) -> Result<String> {
        let line = timeout(OUTPUT_TIMEOUT, async {
            loop {
                let line = self.lines.recv().await?;
                if let Some(rest) = line.strip_prefix(word) {
                    return Some(rest.trim().to_owned());
                }
            }
        });
        match line.await {
            Ok(Some(rest)) => Ok(rest),
            _ => bail!("{} did not print `{word}`; its last lines:\n{}", self.name, self.log_tail()),
        }
    }

    /// The process id.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn pid(&self) -> Result<Pid> {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        pid.with_context(|| format!("{} has ended", self.name))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("could not signal {}", self.name))
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When the process is gone already.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit(OUTPUT_TIMEOUT).await.map(drop)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When the process does not end within `limit`.
    pub(crate) async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let wait_exit = timeout(limit, self.process.wait()).await;
        Ok(wait_exit.with_context(|| format!("{} did not end within {limit:?}", self.name))??)
    }

    /// The last lines of the log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(8).map(|line| format!("  {line}\n")).collect();
        lines.into_iter().rev().collect()
    }
}

/// The command line of this program with these arguments.
///
/// # Errors
/// When the path of this program is unknown.
pub(crate) fn this_program(command: &[&str]) -> Result<Vec<OsString>> {
    let current_exe = std::env::current_exe().context("could not find this program's path")?;
    Ok(std::iter::once(current_exe.into()).chain(command.iter().map(OsString::from)).collect())
}

/// Replaces this process by `command`, which is killed when the parent process
/// dies.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn tether(command: &[OsString]) -> Result<()> {
    let (program, args) = command.split_first().context("no program is given")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("could not set the parent-death signal")?;
    let error = std::process::Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("could not start {}", program.display()))
}
