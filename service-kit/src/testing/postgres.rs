//! A PostgreSQL server for a test.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
};

/// Owns the server. Runs it as another user where this one is root, which it
/// refuses to be. A crash loses the data, and that is meant: nothing is synced
/// unless it is requested.
const SCRIPT: &str = include_str!("postgres.sh");

/// A PostgreSQL server on a Unix socket, which ends with this value or with the
/// process, however that ends.
#[derive(Debug)]
pub struct PostgresServer {
    folder: PathBuf,
    /// Closes when this process ends, by whatever; then the script ends the
    /// server and removes its folder.
    _life: ChildStdin,
}

impl PostgresServer {
    /// The server that all tests of this process share.
    pub(super) fn of_this_process() -> &'static Self {
        static SERVER: OnceLock<PostgresServer> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(false))
    }

    /// Starts an empty server; `durable` makes it sync what it commits.
    ///
    /// # Panics
    /// When there is no PostgreSQL or it does not start; says how to get it.
    #[must_use]
    pub fn start(durable: bool) -> Self {
        Self::run(&[if durable { "on".as_ref() } else { "off".as_ref() }])
    }

    /// Starts a hot standby of this server, which follows it by streaming
    /// replication.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn standby(&self) -> Self {
        Self::run(&["off".as_ref(), &self.folder])
    }

    fn run(args: &[&Path]) -> Self {
        let folder = tempfile::Builder::new().prefix("consort-postgres-").tempdir();
        let folder = folder.unwrap_or_else(|why| panic!("no temporary folder: {why}")).keep();
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "postgres-for-tests"])
            .arg(&folder)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: what stops the tests must not stop the
            // script that cleans up after them.
            .process_group(0)
            .spawn();
        let mut child = child.unwrap_or_else(|why| panic!("could not start sh: {why}"));
        let Some(life) = child.stdin.take() else { panic!("sh has no standard input") };
        Self::wait_until_ready(&mut child, &folder);
        Self { folder, _life: life }
    }

    /// The script says `ready`, or what is wrong and ends.
    fn wait_until_ready(child: &mut Child, folder: &Path) {
        let Some(said) = child.stdout.take() else { panic!("sh has no standard output") };
        let mut words = String::new();
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if line == "ready" {
                return;
            }
            words.push_str(&line);
            words.push('\n');
        }
        panic!("PostgreSQL for tests did not start in {}:\n{words}", folder.display());
    }

    /// The URL of a database on it, as its superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }

    /// The folder of its Unix socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }
}
