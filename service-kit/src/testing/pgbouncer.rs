//! `PgBouncer` for a test.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use super::{PostgresServer, free_port};

const SCRIPT: &str = include_str!("pgbouncer.sh");

/// A `PgBouncer` on loopback, which ends with this value or with the process,
/// however that ends.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    /// Ends when its standard input does, which it does with this process too.
    script: Child,
}

impl PgBouncer {
    /// Starts one in front of `server`: as it comes, but for `settings`, lines
    /// of its configuration.
    ///
    /// # Panics
    /// When there is no `PgBouncer` or it does not start; says how to get it.
    #[must_use]
    pub fn start(server: &PostgresServer, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("consort-pgbouncer-").tempdir();
        let folder = folder.unwrap_or_else(|why| panic!("no temporary folder: {why}")).keep();
        let port = free_port();
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "pgbouncer-for-tests", &port.to_string()])
            .args([server.folder().as_os_str(), settings.as_ref(), folder.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal to the tests must not reach the script that cleans up.
            .process_group(0)
            .spawn();
        let mut script = child.unwrap_or_else(|why| panic!("could not start sh: {why}"));
        let said = script.stdout.take();
        let bouncer = Self { port, script };
        let mut words = String::new();
        for line in said.into_iter().flat_map(|said| BufReader::new(said).lines()).map_while(Result::ok) {
            if line == "ready" {
                return bouncer;
            }
            words.push_str(&line);
            words.push('\n');
        }
        panic!("PgBouncer for tests did not start in {}:\n{words}", folder.display());
    }

    /// The URL of a database behind it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Closes its standard input first.
        let _ = self.script.wait();
    }
}
