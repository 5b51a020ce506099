//! For tests: replicas of a service in this process, and databases: a SQLite file, or a database on a PostgreSQL server
//! that starts with the first test of a process that needs it and ends with
//! the process, however that ends.

use std::{
    net::TcpListener,
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
mod pgbouncer;
mod postgres;
mod rejection;
mod replica;

pub use callers::Callers;
pub use nats::NatsServer;
pub use pgbouncer::PgBouncer;
pub use postgres::PostgresServer;
pub use rejection::{refused, refused_fields};
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

/// An empty database for one test.
#[derive(Debug)]
pub struct TestDatabase {
    url: DatabaseUrl,
    _folder: Option<TempDir>,
}

impl TestDatabase {
    /// A SQLite file in a temporary folder.
    ///
    /// # Panics
    /// When no folder can be created.
    #[must_use]
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|why| panic!("no temporary folder: {why}"));
        Self { url: DatabaseUrl::Sqlite(folder.path().join("test.db")), _folder: Some(folder) }
    }

    /// A new database on this process's server.
    ///
    /// # Panics
    /// When there is no PostgreSQL or it does not start; the message says how to install it.
    ///
    /// # Cancel safety
    /// May leave a database behind, which goes with the server.
    pub async fn postgres() -> Self {
        Self::on(PostgresServer::of_this_process()).await
    }

    /// As [`postgres`](Self::postgres), on a server whose commits are durable,
    /// for measurements.
    ///
    /// # Panics
    /// As [`postgres`](Self::postgres).
    ///
    /// # Cancel safety
    /// As [`postgres`](Self::postgres).
    pub async fn durable_postgres() -> Self {
        static SERVER: OnceLock<PostgresServer> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| PostgresServer::start(true))).await
    }

    async fn on(server: &PostgresServer) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Relaxed));
        let created = async {
            let mut connection = PgConnection::connect(&server.url("postgres")).await?;
            connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")).into_sql_str()).await
        };
        if let Err(why) = created.await {
            panic!("could not create a database: {why}");
        }
        let url = server.url(&name).parse();
        Self { url: url.unwrap_or_else(|why| panic!("{why}")), _folder: None }
    }

    /// Another empty database of the same kind.
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

    /// The URL.
    #[must_use]
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }
}

/// A free port below the ephemeral range.
fn free_port() -> u16 {
    let mut ports = (0..200).map(|_| fastrand::u16(20_000..32_000));
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.unwrap_or_else(|| panic!("no port is free"))
}
