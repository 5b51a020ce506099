//! A process of the bed: told what to do by its standard input, heard by its
//! standard output, ended with the harness.

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

/// How long a child may take to say what is waited for.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of a child that may wait to be read; more make it wait.
const LINES: usize = 256;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: tokio::process::Child,
    input: ChildStdin,
    said: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Child {
    /// Starts `words`, a program and its arguments. What it writes is
    /// added to the log of that name in `logs`.
    ///
    /// # Errors
    /// When it cannot be started, or its log cannot be written.
    pub(crate) fn start(name: &str, words: &[OsString], logs: &Path) -> Result<Self> {
        let (program, args) = words.split_first().context("no program was named")?;
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("could not write {}", log.display()))?;
        let mut also = file.try_clone().context("could not share the log")?;
        let mut process = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // Out of reach of the terminal's Ctrl-C, which is for the harness.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.context("a child without pipes")?;
        let (sender, said) = mpsc::channel(LINES);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Neither a full disk nor nobody listening is a reason to let
                // the pipe fill up.
                let _ = writeln!(also, "{line}");
                let _ = sender.try_send(line);
            }
        });
        Ok(Self { name: name.to_owned(), process, input, said, log })
    }

    /// Sends it a line.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<()> {
        let told = self.input.write_all(format!("{line}\n").as_bytes()).await;
        told.with_context(|| format!("could not tell {} to `{line}`", self.name))
    }

    /// What follows `word` in the next line that begins with it.
    ///
    /// # Errors
    /// When it ends or says nothing like it in time; holds its last words.
    pub(crate) async fn hear(&mut self, word: &str) -> Result<String> {
        let heard = timeout(OUTPUT_TIMEOUT, async {
            loop {
                let line = self.said.recv().await?;
                if let Some(rest) = line.strip_prefix(word) {
                    return Some(rest.trim().to_owned());
                }
            }
        });
        match heard.await {
            Ok(Some(rest)) => Ok(rest),
            _ => bail!("{} did not say `{word}`; its last words:\n{}", self.name, self.last_words()),
        }
    }

    /// Its process.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn id(&self) -> Result<Pid> {
        let id = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        id.with_context(|| format!("{} has ended", self.name))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.id()?, signal).with_context(|| format!("could not signal {}", self.name))
    }

    /// `kill -9`, and waits for its end.
    ///
    /// # Errors
    /// When it is gone already.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended(OUTPUT_TIMEOUT).await.map(drop)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = timeout(limit, self.process.wait()).await;
        Ok(ended.with_context(|| format!("{} did not end within {limit:?}", self.name))??)
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(8).map(|line| format!("  {line}\n")).collect();
        lines.into_iter().rev().collect()
    }
}

/// This program, run as `words`.
///
/// # Errors
/// When it cannot tell where it is.
pub(crate) fn this(words: &[&str]) -> Result<Vec<OsString>> {
    let own = std::env::current_exe().context("could not tell which program this is")?;
    Ok(std::iter::once(own.into()).chain(words.iter().map(OsString::from)).collect())
}

/// Becomes the program `words`, which is killed when whoever started it dies.
///
/// # Errors
/// When it cannot.
pub(crate) fn tether(words: &[OsString]) -> Result<()> {
    let (program, args) = words.split_first().context("no program was named")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("could not tie it to its starter")?;
    let error = std::process::Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("could not become {}", program.display()))
}
