//! The baseline of the benchmarks, which an application would have without this
//! crate: a pool whose connections take turns by SQLite's own lock, a commit for
//! each unit of work, a round trip for each statement.

use std::path::Path;

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    BUSY_TIMEOUT,
    statement::{Statement, StatementResults, run_statements},
};
use crate::database::{Error, bounded};

pub(in crate::database) fn pool(path: &Path, writers: u32) -> SqlitePool {
    // Durable and otherwise with SQLite's defaults: the other settings of
    // `super::open` are part of the measured difference.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT);
    SqlitePoolOptions::new().max_connections(writers).connect_lazy_with(options)
}

pub(super) async fn begin(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, Error> {
    bounded(pool.begin_with("BEGIN IMMEDIATE")).await
}

pub(super) async fn send(
    open: &mut Transaction<'static, Sqlite>,
    statements: &[&Statement],
    first_only: bool,
) -> Result<StatementResults, Error> {
    let mut results = StatementResults::default();
    for statement in statements {
        results = run_statements(open, &[statement], first_only).await?;
    }
    Ok(results)
}

pub(super) async fn write(pool: &SqlitePool, statements: &[Statement]) -> Result<(), Error> {
    let mut open = begin(pool).await?;
    let sent = send(&mut open, &statements.iter().collect::<Vec<_>>(), false).await;
    end(open, sent.is_ok()).await?;
    sent.map(drop)
}

pub(super) async fn end(open: Transaction<'static, Sqlite>, is_committed: bool) -> Result<(), Error> {
    if is_committed { bounded(open.commit()).await } else { bounded(open.rollback()).await }
}
