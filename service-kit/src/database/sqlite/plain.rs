//! What one would write without this crate, to measure against: a pool whose
//! connections take turns by SQLite's own lock, a commit for each unit of work,
//! a round trip for each statement.

use std::path::Path;

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    BUSY,
    statement::{Answers, Statement, exchange},
};
use crate::database::{Error, bounded};

pub(in crate::database) fn pool(path: &Path, writers: u32) -> SqlitePool {
    // Durable and otherwise as SQLite comes: what `super::open` sets besides
    // is part of what is measured.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY);
    SqlitePoolOptions::new().max_connections(writers).connect_lazy_with(options)
}

pub(super) async fn begin(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, Error> {
    bounded(pool.begin_with("BEGIN IMMEDIATE")).await
}

pub(super) async fn send(
    open: &mut Transaction<'static, Sqlite>,
    statements: &[&Statement],
    first_only: bool,
) -> Result<Answers, Error> {
    let mut answers = Answers::default();
    for statement in statements {
        answers = exchange(open, &[statement], first_only).await?;
    }
    Ok(answers)
}

pub(super) async fn write(pool: &SqlitePool, statements: &[Statement]) -> Result<(), Error> {
    let mut open = begin(pool).await?;
    let sent = send(&mut open, &statements.iter().collect::<Vec<_>>(), false).await;
    end(open, sent.is_ok()).await?;
    sent.map(drop)
}

pub(super) async fn end(open: Transaction<'static, Sqlite>, kept: bool) -> Result<(), Error> {
    if kept { bounded(open.commit()).await } else { bounded(open.rollback()).await }
}
