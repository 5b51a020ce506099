//! The one connection that writes.

use futures_util::FutureExt;
use sqlx::{SqliteConnection, query};

use super::statement::{Statement, StatementResults, UnitOutcome, run_statements, run_units};
use crate::database::Error;

/// The connection that writes. Units of work use it in turns, within one
/// transaction.
#[derive(Debug)]
pub(super) struct WriterConnection {
    connection: SqliteConnection,
    /// The number of the current turn. Turns count from 1.
    turn: u64,
    is_turn_open: bool,
    has_savepoint: bool,
    /// The failure after which the connection must not be used for another
    /// transaction.
    pub(super) failure: Option<String>,
}

/// Savepoints of consecutive turns have different names: if one was not
/// created, then the rollback of its turn fails instead of undoing the turn
/// before it as well.
const SAVEPOINTS: [[&str; 3]; 2] = [
    ["RELEASE odd", "SAVEPOINT even", "ROLLBACK TO even"],
    ["RELEASE even", "SAVEPOINT odd", "ROLLBACK TO odd"],
];

impl WriterConnection {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self { connection, turn: 0, is_turn_open: false, has_savepoint: false, failure: None }
    }

    pub(super) async fn begin_transaction(&mut self) -> Result<(), Error> {
        self.has_savepoint = false;
        self.run("BEGIN IMMEDIATE").await
    }

    /// Begins the next turn. The work of the last one stays, unless it was
    /// rolled back.
    pub(super) fn begin_turn(&mut self) -> u64 {
        self.turn += 1;
        self.is_turn_open = true;
        let [release, savepoint, _] = self.savepoints();
        if std::mem::replace(&mut self.has_savepoint, true) {
            self.enqueue(release);
        }
        self.enqueue(savepoint);
        self.turn
    }

    /// True when a turn has begun in this transaction.
    pub(super) fn has_savepoint(&self) -> bool {
        self.has_savepoint
    }

    /// Ends the turn and rolls its work back.
    pub(super) async fn rollback_turn(&mut self) -> Result<(), Error> {
        self.is_turn_open = false;
        let [_, _, rollback] = self.savepoints();
        self.run(rollback).await
    }

    pub(super) fn end_turn(&mut self) {
        self.is_turn_open = false;
    }

    pub(super) fn is_open(&self, turn: u64) -> bool {
        self.is_turn_open && self.turn == turn
    }

    fn savepoints(&self) -> [&'static str; 3] {
        SAVEPOINTS[usize::from(self.turn % 2 == 1)]
    }

    /// Runs a statement that returns no rows.
    pub(super) async fn run(&mut self, sql: &'static str) -> Result<(), Error> {
        self.send(&[&Statement::plain(sql)], false).await.map(drop)
    }

    /// Enqueues a statement without waiting for it, which would cost a round
    /// trip to the connection's thread. It runs before all statements that are
    /// sent later. Its failure is ignored.
    fn enqueue(&mut self, sql: &'static str) {
        let _ = query(sql).execute(&mut self.connection).now_or_never();
    }

    /// Runs statements in order, in one round trip, up to the first that fails.
    /// Returns the rows of the last statement, or only the first row. Those
    /// before the last must return no rows.
    pub(super) async fn send(
        &mut self,
        statements: &[&Statement],
        first_only: bool,
    ) -> Result<StatementResults, Error> {
        let sent = run_statements(&mut self.connection, statements, first_only).await;
        self.record_failure(sent)
    }

    /// Runs units of work of `each` statements in one round trip. Fails when one
    /// of them must be rolled back, which is possible for all of them only.
    pub(super) async fn send_units(
        &mut self,
        statements: &[&Statement],
        each: usize,
    ) -> Result<Vec<UnitOutcome>, Error> {
        let sent = run_units(&mut self.connection, statements, each).await;
        self.record_failure(sent)
    }

    fn record_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && error.is_system_failure()
        {
            self.failure = Some(error.to_string());
        }
        result
    }

    pub(super) fn into_connection(self) -> SqliteConnection {
        self.connection
    }
}
