//! For tests: replicas of a service in this process, and databases: a SQLite file, or a database on a PostgreSQL server
//! that starts with the first test of a process that needs it and ends with
//! the process, however that ends.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use sqlx::{Connection, Executor, PgConnection, SqlSafeStr};
use tempfile::TempDir;

use crate::database::DatabaseUrl;

mod callers;
mod nats;
mod refusal;
mod replica;

pub use callers::Callers;
pub use nats::NatsServer;
pub use refusal::{refused, refused_fields};
pub use replica::{Replica, mesh_of, mesh_to};

/// Runs each case, an `async fn(TestDatabase)`, on SQLite and on PostgreSQL.
///
/// ```ignore
/// service_kit::on_both_databases!(a_cart_starts_empty, a_line_is_added);
/// ```
#[macro_export]
macro_rules! on_both_databases {
    ($($case:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::testing::TestDatabase::sqlite()).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::testing::TestDatabase::postgres().await).await;
            })+
        }
    };
}

/// An empty database of one test's own.
#[derive(Debug)]
pub struct TestDatabase {
    url: DatabaseUrl,
    _folder: Option<TempDir>,
}

impl TestDatabase {
    /// A file in a folder that goes with it.
    ///
    /// # Panics
    /// When no folder can be made.
    #[must_use]
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|why| panic!("no temporary folder: {why}"));
        Self { url: DatabaseUrl::Sqlite(folder.path().join("test.db")), _folder: Some(folder) }
    }

    /// A new database on this process's server.
    ///
    /// # Panics
    /// When there is no PostgreSQL or it does not start; says how to get it.
    ///
    /// # Cancel safety
    /// May leave a database behind, which goes with the server.
    pub async fn postgres() -> Self {
        Self::on(Postgres::of_this_process()).await
    }

    /// As [`postgres`](Self::postgres), on a server whose commits are durable,
    /// as measurements want it.
    ///
    /// # Panics
    /// As [`postgres`](Self::postgres).
    ///
    /// # Cancel safety
    /// As [`postgres`](Self::postgres).
    pub async fn durable_postgres() -> Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| Postgres::start("on"))).await
    }

    async fn on(server: &Postgres) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Relaxed));
        let made = async {
            let mut connection = PgConnection::connect(&server.url("postgres")).await?;
            connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")).into_sql_str()).await
        };
        if let Err(why) = made.await {
            panic!("could not make a database: {why}");
        }
        let url = server.url(&name).parse();
        Self { url: url.unwrap_or_else(|why| panic!("{why}")), _folder: None }
    }

    /// Another empty one, of the same kind.
    ///
    /// # Panics
    /// As [`postgres`](Self::postgres).
    ///
    /// # Cancel safety
    /// As [`postgres`](Self::postgres).
    pub async fn another(&self) -> Self {
        match self.url {
            DatabaseUrl::Sqlite(_) => Self::sqlite(),
            DatabaseUrl::Postgres(_) => Self::postgres().await,
        }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }
}

/// A PostgreSQL server of this process's own, on a Unix socket.
struct Postgres {
    folder: PathBuf,
    /// Closes when this process ends, by whatever; then the script ends the
    /// server and removes its folder.
    _life: ChildStdin,
}

/// Owns the server. Runs it as another user where this one is root, which it
/// refuses to be. A crash loses the data, and that is meant: nothing is synced
/// unless it is told to.
const SCRIPT: &str = include_str!("testing/postgres.sh");

impl Postgres {
    fn of_this_process() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| Self::start("off"))
    }

    fn start(sync: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("consort-postgres-").tempdir();
        let folder = folder.unwrap_or_else(|why| panic!("no temporary folder: {why}")).keep();
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "postgres-for-tests"])
            .arg(&folder)
            .arg(sync)
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

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }
}
