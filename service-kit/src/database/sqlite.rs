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

use super::{Migrations, OpenError, Pools, error::sqlite_code, health::Told, migrate};
use crate::{
    changes::{self, Changes},
    private,
};

mod desk;
mod group;
mod pace;
#[cfg(feature = "test-util")]
mod plain;
mod probe;
mod statement;
mod work;
mod writer;

#[cfg(feature = "test-util")]
pub(super) use plain::pool as plain_pool;
pub(super) use work::Work;
pub(super) use writer::Writer;

/// How long to wait for another process to finish its transaction.
const BUSY: Duration = Duration::from_secs(5);
/// How often to ask whether it has.
const ASK: Duration = Duration::from_millis(1);
/// How long to wait for a turn of our own, or for a reader.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long replicas that start together may wait for each other.
const OPEN: Duration = Duration::from_secs(15);
const READERS: u32 = 4;
/// After how many pages of log they are carried over to the file: seldom, since
/// pages that many commits write are then carried over once, and often enough
/// that opening the file after a crash takes no time that is noticed.
const CHECKPOINT: &str = "8000";
/// What the log is cut down to when it has grown beyond that, as behind a long
/// read: 32 MiB, a little more than [`CHECKPOINT`] pages take. Less would have
/// each commit extend the file again, which is slower than to overwrite it.
const LOG_LIMIT: &str = "33554432";

pub(super) async fn open(
    path: &Path,
    migrations: &Migrations,
    changes: &Changes,
    health: &Told,
) -> Result<(Pools, JoinHandle<()>), OpenError> {
    probe_file(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("journal_size_limit", LOG_LIMIT)
        .pragma("wal_autocheckpoint", CHECKPOINT)
        .pragma("temp_store", "MEMORY");
    // SQLite's own wait asks in steps of up to 100 ms and so keeps missing the
    // short moments in which a busy file is free.
    let writing = options.clone().busy_timeout(Duration::ZERO);
    let connection = migrate(path, &writing, migrations).await?;
    let writer = Writer::start(writing, connection, changes.clone(), health.clone());

    // Not `read_only`: a reader of a log must be able to make its index.
    let reading = options.pragma("query_only", "ON");
    // Connections stay open: opening one reads the schema, closing the last one
    // empties the log.
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE)
        .idle_timeout(None)
        .max_lifetime(None)
        // A file cannot hang up, so asking it each time would only cost.
        .test_before_acquire(false)
        .connect_lazy_with(reading.clone());
    let feed = tokio::spawn(changes::poll_sqlite(reading, changes.clone()));
    Ok((Pools::Sqlite { writer, readers }, feed))
}

/// Makes the file, for its owner only, and opens it for writing, to learn the operating system's own reason when
/// that fails; SQLite's is "unable to open database file" for all of them.
async fn probe_file(path: &Path) -> Result<(), OpenError> {
    let path: PathBuf = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        private::open_file(&path).map_err(|why| OpenError::file(&path, &why))
    });
    match opened.await {
        Ok(opened) => opened.map(drop),
        // Only when the runtime is going down.
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
    let give_up = Instant::now() + OPEN;
    let mut connection = connect(options, give_up).await.map_err(failed)?;
    let mut open = loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(ASK).await,
            begun => break begun.map_err(failed)?,
        }
    };
    let shown = format!("sqlite:{}", path.display());
    migrate::sqlite(&mut open, migrations).await.map_err(|why| OpenError::migration(&shown, &why))?;
    open.commit().await.map_err(failed)?;
    Ok(connection)
}

/// Replicas that start at the same moment find the file locked in ways that
/// SQLite's own wait does not cover: turning on the log is one.
async fn connect(options: &SqliteConnectOptions, give_up: Instant) -> Result<SqliteConnection, sqlx::Error> {
    loop {
        match options.connect().await {
            Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(ASK).await,
            connected => return connected,
        }
    }
}

fn is_busy(why: &sqlx::Error) -> bool {
    let code = why.as_database_error().and_then(|error| error.code());
    code.and_then(|code| sqlite_code(&code)).is_some_and(|code| matches!(code, 5 | 6))
}
