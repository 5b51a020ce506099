//! A NATS server for a test.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use secrecy::SecretString;

use super::free_port;

const SCRIPT: &str = include_str!("nats.sh");

/// A NATS server with its streams on loopback, which ends with it or with the
/// test, however that ends.
#[derive(Debug)]
pub struct NatsServer {
    port: u16,
    folder: PathBuf,
    script: Option<Child>,
}

impl NatsServer {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is no nats-server or it does not start; says how to get it.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("consort-nats-").tempdir();
        let folder = folder.unwrap_or_else(|why| panic!("no temporary folder: {why}")).keep();
        let port = free_port();
        let script = Some(run(port, &folder));
        Self { port, folder, script }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> SecretString {
        format!("nats://127.0.0.1:{}", self.port).into()
    }

    /// Kills it; its data stays.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        let Some(mut script) = self.script.take() else { return };
        let sent = script.stdin.take().map(|mut life| life.write_all(b"kill\n"));
        if !matches!(sent, Some(Ok(()))) || script.wait().is_err() {
            panic!("could not kill the NATS server");
        }
    }

    /// Starts it again, on the same port with the same data.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        self.kill();
        self.script = Some(run(self.port, &self.folder));
    }
}

fn run(port: u16, folder: &Path) -> Child {
    let script = Command::new("sh")
        .args(["-c", SCRIPT, "nats-for-tests", &port.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A signal to the tests must not reach the script that cleans up.
        .process_group(0)
        .spawn();
    let mut script = script.unwrap_or_else(|why| panic!("could not start sh: {why}"));
    let Some(said) = script.stdout.take() else { panic!("sh has no standard output") };
    let mut words = String::new();
    let ready = BufReader::new(said).lines().map_while(Result::ok).any(|line| {
        words.push_str(&line);
        words.push('\n');
        line == "ready"
    });
    if !ready {
        // It has ended, or is about to.
        let _ = script.wait();
        panic!("NATS for tests did not start in {}:\n{words}", folder.display());
    }
    script
}
