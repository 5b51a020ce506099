//! SQLite: one file, shared by the replicas on one machine.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Error, Migrations, OpenError, Pools, bounded, error::sqlite_code, migrate};
use crate::changes::{self, Changes};

/// How long to wait for another process to finish its transaction.
const BUSY: Duration = Duration::from_secs(5);
/// How often to ask whether it has.
const ASK: Duration = Duration::from_millis(1);
/// How long to wait for a turn of our own.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long replicas that start together may wait for each other.
const OPEN: Duration = Duration::from_secs(15);
const READERS: u32 = 4;
/// What a checkpoint cuts the log down to.
const LOG_LIMIT: &str = "67108864";

pub(super) async fn open(
    path: &Path,
    migrations: &Migrations,
    changes: &Changes,
) -> Result<(Pools, JoinHandle<()>), OpenError> {
    probe(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("journal_size_limit", LOG_LIMIT);
    let writer = Writer::new(options.clone());
    migrate(path, &writer, migrations).await?;

    // Not `read_only`: a reader of a log must be able to make its index.
    let reading = options.pragma("query_only", "ON");
    let readers = pool(READERS).connect_lazy_with(reading.clone());
    let feed = tokio::spawn(changes::poll_sqlite(reading, changes.clone()));
    Ok((Pools::Sqlite { writer, readers }, feed))
}

/// The one connection that writes. Our own writers take turns, first come,
/// first served; the one whose turn it is waits for those of other processes.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pool: SqlitePool,
    turn: Arc<Semaphore>,
}

/// A transaction that writes, and the turn that it takes.
pub(super) type Turn = (Transaction<'static, Sqlite>, OwnedSemaphorePermit);

impl Writer {
    fn new(options: SqliteConnectOptions) -> Self {
        // SQLite's own wait asks in steps of up to 100 ms and so keeps missing
        // the short moments in which a busy file is free.
        let options = options.busy_timeout(Duration::ZERO);
        Self { pool: pool(1).connect_lazy_with(options), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Begins to write, at once as the writer: one that reads first, and then
    /// cannot write because another has, would have to start over.
    pub(super) async fn begin(&self) -> Result<Turn, Error> {
        let turn = timeout(ACQUIRE, self.turn.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Error::Slow(ACQUIRE))?.map_err(|_| sqlx::Error::PoolClosed)?;
        Ok((bounded(self.begin_within(BUSY)).await?, turn))
    }

    async fn begin_within(&self, limit: Duration) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        let give_up = Instant::now() + limit;
        loop {
            match self.pool.begin_with("BEGIN IMMEDIATE").await {
                Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(ASK).await,
                begun => return begun,
            }
        }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Connections stay open: opening one reads the schema, closing the last one
/// empties the log.
fn pool(most: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE)
        .idle_timeout(None)
        .max_lifetime(None)
        // A file cannot hang up, so asking it each time would only cost.
        .test_before_acquire(false)
}

/// Opens the file for writing, to learn the operating system's own reason when
/// that fails; SQLite's is "unable to open database file" for all of them.
async fn probe(path: &Path) -> Result<(), OpenError> {
    let path: PathBuf = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        OpenOptions::new().create(true).append(true).open(&path).map_err(|why| OpenError::file(&path, &why))
    });
    match opened.await {
        Ok(opened) => opened.map(drop),
        // Only when the runtime is going down.
        Err(_) => Ok(()),
    }
}

/// Brings the schema up to date. Replicas that start at the same moment find
/// the file locked in ways that SQLite's own wait does not cover: turning on
/// the log is one.
async fn migrate(path: &Path, writer: &Writer, migrations: &Migrations) -> Result<(), OpenError> {
    let mut open = writer.begin_within(OPEN).await.map_err(|why| OpenError::sqlite(path, &why))?;
    let shown = format!("sqlite:{}", path.display());
    migrate::sqlite(&mut open, migrations).await.map_err(|why| OpenError::migration(&shown, &why))?;
    open.commit().await.map_err(|why| OpenError::sqlite(path, &why))
}

fn is_busy(why: &sqlx::Error) -> bool {
    let code = why.as_database_error().and_then(|error| error.code());
    code.and_then(|code| sqlite_code(&code)).is_some_and(|code| matches!(code, 5 | 6))
}
