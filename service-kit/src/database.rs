//! One type over SQLite and PostgreSQL.
//!
//! Replicas of a service are processes that share one database. SQLite, one
//! file, serves them on one machine; PostgreSQL serves them on many. A store
//! writes its SQL once where both understand it (`$1` is a parameter in both)
//! and twice, by [`Sql::each`], where they don't.
//!
//! What holds for both:
//!
//! - A commit that returned is durable. SQLite runs with a write-ahead log and
//!   `synchronous=FULL`; with `NORMAL` a power loss takes acknowledged commits.
//! - Every wait is bounded: for a connection, a lock or a result.
//! - Writers of one row follow one another. SQLite has one writer at a time
//!   (`BEGIN IMMEDIATE`), and up to 64 transactions of one process are committed
//!   as one, each rolled back by itself if it fails; on PostgreSQL a transaction
//!   first writes the row that it is about, which locks it.
//! - A read is one statement and so sees one state.
//!
//! # PostgreSQL with failover, or behind a pooler
//!
//! A replica takes up to twelve connections: ten for calls, one that listens and
//! one that probes the server. A session lasts a minute at most. It ends sooner
//! when it leads to a standby or a read-only server, when the server has ended
//! it, or when others share it; so no session keeps failing after a failover by
//! address. A standby is never used, not even for reads.
//!
//! `PgBouncer` works in session mode, with a `default_pool_size` of 13 for each
//! replica. In transaction and statement mode a replica does not start and
//! reports why: its prepared statements, its `LISTEN` and its `SET`s would
//! sometimes reach another client's session.
//!
//! # A rolling upgrade
//!
//! A schema changes in two releases, so that programs of two versions run on one
//! database meanwhile: see [`Migration`] for how a step declares which older
//! programs still run on it.
//!
//! # Copies of a SQLite database
//!
//! While a service runs, the last writes are in the log beside the file
//! (`order.db-wal`): the file alone may lack whole tables. Copy it with SQLite
//! itself, which reads one state and blocks no writer:
//!
//! ```text
//! sqlite3 .consort/data/order.db "VACUUM INTO 'order-copy.db'"
//! ```
//!
//! After a clean stop of every replica the file alone is the database. After a
//! crash it is the file together with its `-wal`: never move or delete one
//! without the other. The log takes 32 MiB, more while a read goes on for long
//! or a transaction is large, and is cut down again by the writes that follow.

use std::{sync::Arc, time::Duration};

use sqlx::{PgPool, SqlitePool};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::changes::Changes;

mod error;
mod health;
mod migrate;
mod open_error;
mod postgres;
mod row;
mod sqlite;
mod transaction;
mod unit;
mod url;
mod version;

pub use error::Error;
pub use health::Health;
pub use migrate::{Migration, Migrations};
pub use open_error::OpenError;
pub use row::{Column, Row, Sql, Value};
pub use transaction::Transaction;
pub use unit::Unit;
pub use url::{DatabaseUrl, InvalidUrl, masked};
pub use version::SchemaVersion;

/// The timeout of one statement with all its waits; the backstop behind the
/// timeouts of each database.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of a read while writing fails: the server may still be readable,
/// or be unreachable.
const FAILING_READ_TIMEOUT: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);

/// A database, open and migrated. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Database {
    pools: Pools,
    changes: Changes,
    health: health::HealthReporter,
    /// Ends with the last clone, or when it is closed.
    feed: Arc<AbortOnDropHandle<()>>,
}

#[derive(Clone, Debug)]
enum Pools {
    Sqlite { writer: sqlite::Writer, readers: SqlitePool },
    Postgres(PgPool),
}

impl Database {
    /// Opens the database at `url` and brings its schema up to date, one
    /// replica at a time. Within a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be opened; in one line that names cause and fix and holds
    /// no password.
    ///
    /// # Cancel safety
    /// A migration in progress is rolled back.
    pub async fn open(url: &DatabaseUrl, migrations: &Migrations) -> Result<Self, OpenError> {
        let changes = Changes::default();
        let health = health::HealthReporter::default();
        let (pools, feed) = match url {
            DatabaseUrl::Sqlite(path) => sqlite::open(path, migrations, &changes, &health).await?,
            DatabaseUrl::Postgres(options) => postgres::open(options, migrations, &changes, &health).await?,
        };
        Ok(Self { pools, changes, health, feed: Arc::new(AbortOnDropHandle::new(feed)) })
    }

    /// Opens a SQLite database with the plain writers of the benchmarks' baseline:
    /// so many connections write, each with commits of its own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    #[cfg(feature = "test-util")]
    pub async fn open_plain(
        url: &DatabaseUrl,
        migrations: &Migrations,
        writers: u32,
    ) -> Result<Self, OpenError> {
        let mut database = Self::open(url, migrations).await?;
        if let (Pools::Sqlite { writer, .. }, DatabaseUrl::Sqlite(path)) = (&mut database.pools, url) {
            *writer = writer.clone().plain(sqlite::plain_pool(path, writers));
        }
        Ok(database)
    }

    /// The changes to subscribe to.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The health of the database, and every change of it.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.watch()
    }

    /// Begins a transaction. Dropping it rolls it back. On SQLite it blocks other
    /// writers from its first statement that is not posted, until its end.
    ///
    /// # Errors
    /// When no connection is available in time.
    ///
    /// # Cancel safety
    /// Cancel safe: a transaction that was begun is rolled back.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        Transaction::begin(&self.pools, self.changes.clone(), self.health.clone()).await
    }

    /// Makes a unit of work, which is retried while it fails only because of
    /// concurrent transactions:
    ///
    /// ```
    /// # use service_kit::database::{Database, Error, Transaction};
    /// # async fn work(open: &mut Transaction) -> Result<(), Error> { Ok(()) }
    /// # async fn example(database: Database) -> Result<(), Error> {
    /// let mut unit = database.unit();
    /// loop {
    ///     let mut open = unit.begin().await?;
    ///     let done = work(&mut open).await;
    ///     if let Some(done) = unit.end(open, done).await {
    ///         return done;
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn unit(&self) -> Unit {
        Unit::new(self.clone())
    }

    /// Reads at most one row.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn row(&self, sql: impl Into<Sql>, values: &[Value]) -> Result<Option<Row>, Error> {
        let sql = sql.into();
        match &self.pools {
            Pools::Sqlite { readers, .. } => {
                let query = row::bind(sql.sqlite, values);
                Ok(bounded(query.fetch_optional(readers)).await?.map(Row::Sqlite))
            }
            Pools::Postgres(pool) => {
                let read = || self.read(row::bind(sql.postgres, values).fetch_optional(pool));
                Ok(self.read_fresh(read).await?.map(Row::Postgres))
            }
        }
    }

    /// Reads all rows. The statement must bound how many there are.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn rows(&self, sql: impl Into<Sql>, values: &[Value]) -> Result<Vec<Row>, Error> {
        let sql = sql.into();
        match &self.pools {
            Pools::Sqlite { readers, .. } => {
                let query = row::bind(sql.sqlite, values);
                let rows = bounded(query.fetch_all(readers)).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Pools::Postgres(pool) => {
                let read = || self.read(row::bind(sql.postgres, values).fetch_all(pool));
                Ok(self.read_fresh(read).await?.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Reads from a server, once more if the schema has changed since the
    /// statement was prepared.
    async fn read_fresh<T, F>(&self, read: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        match self.health.observe(read().await) {
            Err(why) if why.is_conflict() => self.health.observe(read().await),
            done => done,
        }
    }

    /// Bounds a read from a server.
    async fn read<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        let is_failing = self.health.failure().is_some();
        let limit = if is_failing { FAILING_READ_TIMEOUT } else { STATEMENT_TIMEOUT };
        bounded_by(limit, work).await
    }

    /// Closes every connection after its current statement, and waits for that
    /// for 4 s at most. A SQLite file is complete without its log then, unless
    /// another process has it open.
    ///
    /// # Cancel safety
    /// The pools reject new work from the first poll on; dropping it only stops
    /// waiting.
    pub async fn close(&self) {
        self.feed.abort();
        let closing = async {
            match &self.pools {
                Pools::Sqlite { writer, readers } => {
                    readers.close().await;
                    writer.close().await;
                }
                Pools::Postgres(pool) => pool.close().await,
            }
        };
        // A transaction that is cut off by the end of the process is rolled back.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

/// Bounds one exchange with the database.
async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    bounded_by(STATEMENT_TIMEOUT, work).await
}

async fn bounded_by<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Slow(limit)),
    }
}
