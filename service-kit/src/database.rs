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
//! - Nothing waits without bound: not for a connection, a lock or an answer.
//! - Writers of one row follow one another. SQLite has one writer at a time
//!   (`BEGIN IMMEDIATE`), and up to 64 transactions of one process are committed
//!   as one, each undone by itself if it fails; on PostgreSQL a transaction first
//!   writes the row that it is about, which locks it.
//! - A read is one statement and so sees one state.
//!
//! # PostgreSQL behind an address that moves, or a pooler
//!
//! A replica takes up to twelve connections: ten for calls, one that listens and
//! one that looks whether the server can be written. Each is a session of a
//! minute at most, and ends sooner when it answers that it leads to a standby or
//! to a server that was set read-only, that it is over, or that it is not the
//! replica's alone; so a failover by address leaves none behind that fails for
//! longer than it takes to notice. A standby is never used, for reads neither.
//!
//! `PgBouncer` works in session mode, with a `default_pool_size` of 13 for each
//! replica. In transaction and statement mode a replica does not start and says
//! why: its prepared statements, its `LISTEN` and its `SET`s would be some other
//! client's now and then.
//!
//! # A rolling upgrade
//!
//! A schema changes in two releases, so that programs of two versions run on one
//! database meanwhile: [`Migration`] says how a step tells which programs of
//! before still run on it.
//!
//! # Copies of a SQLite database
//!
//! While a service runs, what was written last is in the log beside the file
//! (`order.db-wal`): the file alone may lack whole tables. Copy it by SQLite
//! itself, which sees one state and keeps nobody waiting:
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
pub(crate) use postgres::SESSION_LIFETIME;
pub use row::{Column, Row, Sql, Value};
pub use transaction::Transaction;
pub use unit::Unit;
pub use url::{DatabaseUrl, InvalidUrl, masked};
pub use version::SchemaVersion;

/// The longest that one statement may take with everything it waits for; the
/// backstop behind the bounds of each database.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// The same of a read while the server is known to fail: it may still read, or
/// be away.
const FAILING_LIMIT: Duration = Duration::from_secs(1);
const CLOSE_LIMIT: Duration = Duration::from_secs(4);

/// A database, open and migrated. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Database {
    pools: Pools,
    changes: Changes,
    health: health::Told,
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
    /// When it cannot be opened; in one line that names cause and mend and
    /// holds no password.
    ///
    /// # Cancel safety
    /// A migration that is under way is undone.
    pub async fn open(url: &DatabaseUrl, migrations: &Migrations) -> Result<Self, OpenError> {
        let changes = Changes::default();
        let health = health::Told::default();
        let (pools, feed) = match url {
            DatabaseUrl::Sqlite(path) => sqlite::open(path, migrations, &changes, &health).await?,
            DatabaseUrl::Postgres(options) => postgres::open(options, migrations, &changes, &health).await?,
        };
        Ok(Self { pools, changes, health, feed: Arc::new(AbortOnDropHandle::new(feed)) })
    }

    /// Opens a SQLite database as one would without this crate: so many
    /// connections write, each commits for itself. To measure against.
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

    /// Who wants to know of changes subscribes here.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Whether it can be written, now and whenever that changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.watch()
    }

    /// Begins to write. Dropping the transaction undoes it. On SQLite it keeps
    /// others waiting from its first statement that is waited for, until its end.
    ///
    /// # Errors
    /// When no connection could be had in time.
    ///
    /// # Cancel safety
    /// Cancel safe: a transaction that was begun is undone.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        Transaction::begin(&self.pools, self.changes.clone(), self.health.clone()).await
    }

    /// Writes a unit of work, again while it fails only because another
    /// transaction was under way:
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
                Ok(self.insist(read).await?.map(Row::Postgres))
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
                Ok(self.insist(read).await?.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Reads from a server, once more where only the schema has changed since
    /// the statement was prepared.
    async fn insist<T, F>(&self, read: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        match self.health.noted(read().await) {
            Err(why) if why.is_conflict() => self.health.noted(read().await),
            done => done,
        }
    }

    /// Bounds a read from a server.
    async fn read<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        let limit = if self.health.why().is_some() { FAILING_LIMIT } else { STATEMENT_LIMIT };
        bounded_by(limit, work).await
    }

    /// Closes every connection after what is under way on it, and waits for
    /// that for 4 s at most. A SQLite file then holds everything by itself,
    /// unless another process has it open.
    ///
    /// # Cancel safety
    /// The pools refuse new work from the first poll on; dropping it only stops
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
        // What is cut off by the end of the process is undone.
        let _ = tokio::time::timeout(CLOSE_LIMIT, closing).await;
    }
}

/// Bounds one exchange with the database.
async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    bounded_by(STATEMENT_LIMIT, work).await
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
