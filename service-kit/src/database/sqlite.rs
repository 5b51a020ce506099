//! SQLite: one file, shared by the replicas on one machine.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Migrations, OpenError, Pools, error::sqlite_code, health::HealthReporter, migrate};
use crate::{
    changes::{self, Changes},
    private,
};

mod group_commit;
mod lock_sharing;
#[cfg(feature = "test-util")]
mod plain;
mod probe;
mod statement;
mod transaction;
mod writer;
mod writer_connection;

#[cfg(feature = "test-util")]
pub(super) use plain::pool as plain_pool;
pub(super) use transaction::SqliteTransaction;
pub(super) use writer::Writer;

/// The time to wait for the transaction of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// The time to wait for a write turn or for a reader.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that replicas that start together may wait for each other.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_READERS: u32 = 4;
/// The number of pages in the log at which SQLite checkpoints: large, since a
/// page that many commits write is then copied to the file once, and small
/// enough that opening the file after a crash takes no noticeable time.
const CHECKPOINT_PAGES: &str = "8000";
/// The size in bytes to which SQLite truncates a log that a long read has let
/// grow: 32 MiB, a little more than [`CHECKPOINT_PAGES`] take. With less each
/// commit would extend the file again, which is slower than to overwrite it.
const MAX_LOG_SIZE: &str = "33554432";

pub(super) async fn open(
    path: &Path,
    migrations: &Migrations,
    changes: &Changes,
    health: &HealthReporter,
) -> Result<(Pools, JoinHandle<()>), OpenError> {
    probe_file(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", MAX_LOG_SIZE)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("temp_store", "MEMORY");
    // SQLite's own busy handler polls in steps of up to 100 ms and so keeps
    // missing the short moments in which a busy file is free.
    let writing = options.clone().busy_timeout(Duration::ZERO);
    let connection = migrate(path, &writing, migrations).await?;
    let writer = Writer::start(writing, connection, changes.clone(), health.clone());

    // Not `read_only`: a reader of a write-ahead log may have to create its index.
    let reading = options.pragma("query_only", "ON");
    // Connections stay open: opening one reads the schema, closing the last one
    // empties the log.
    let readers = SqlitePoolOptions::new()
        .max_connections(MAX_READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // A connection to a file is never lost, so a test would only cost time.
        .test_before_acquire(false)
        .connect_lazy_with(reading.clone());
    let feed = tokio::spawn(changes::poll_sqlite(reading, changes.clone()));
    Ok((Pools::Sqlite { writer, readers }, feed))
}

/// Creates the file, for its owner only, and opens it for writing, to learn the
/// operating system's own reason when that fails; SQLite's is always "unable to
/// open database file".
async fn probe_file(path: &Path) -> Result<(), OpenError> {
    let path: PathBuf = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        private::open_file(&path).map_err(|why| OpenError::file(&path, &why))
    });
    match opened.await {
        Ok(opened) => opened.map(drop),
        // Only when the runtime shuts down.
        Err(_) => Ok(()),
    }
}

/// Brings the schema up to date; returns the connection that writes.
async fn migrate(
    path: &Path,
    options: &SqliteConnectOptions,
    migrations: &Migrations,
) -> Result<SqliteConnection, OpenError> {
    let failed = |why| OpenError::sqlite(path, &why);
    let give_up = Instant::now() + OPEN_TIMEOUT;
    let mut connection = connect(options, give_up).await.map_err(failed)?;
    let mut open = loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(BUSY_POLL_INTERVAL).await,
            begun => break begun.map_err(failed)?,
        }
    };
    let shown = format!("sqlite:{}", path.display());
    migrate::sqlite(&mut open, migrations).await.map_err(|why| OpenError::migration(&shown, &why))?;
    open.commit().await.map_err(failed)?;
    Ok(connection)
}

/// Connects, and retries while the file is busy. Replicas that start at the same
/// moment find it locked in ways that SQLite's busy handler does not cover, for
/// example while the log is turned on.
async fn connect(options: &SqliteConnectOptions, give_up: Instant) -> Result<SqliteConnection, sqlx::Error> {
    loop {
        match options.connect().await {
            Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(BUSY_POLL_INTERVAL).await,
            connected => return connected,
        }
    }
}

fn is_busy(why: &sqlx::Error) -> bool {
    let code = why.as_database_error().and_then(|error| error.code());
    code.and_then(|code| sqlite_code(&code)).is_some_and(|code| matches!(code, 5 | 6))
}
