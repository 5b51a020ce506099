//! The one connection that writes, and whose turn it is to sit at it.

use futures_util::FutureExt;
use sqlx::{SqliteConnection, query};

use super::statement::{Answers, Outcome, Statement, exchange, exchange_units};
use crate::database::Error;

/// The connection. Units of work use it by turns, within one transaction.
#[derive(Debug)]
pub(super) struct Desk {
    connection: SqliteConnection,
    /// Turns count from 1.
    turn: u64,
    /// Whether the turn goes on.
    open: bool,
    has_savepoint: bool,
    /// Why the connection shall not be used for another group.
    pub(super) trouble: Option<String>,
}

/// Savepoints of two turns that follow one another have two names: should one
/// not come to be, then undoing its turn fails, and does not undo the turn
/// before it.
const SAVEPOINTS: [[&str; 3]; 2] = [
    ["RELEASE odd", "SAVEPOINT even", "ROLLBACK TO even"],
    ["RELEASE even", "SAVEPOINT odd", "ROLLBACK TO odd"],
];

impl Desk {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self { connection, turn: 0, open: false, has_savepoint: false, trouble: None }
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        self.has_savepoint = false;
        self.run("BEGIN IMMEDIATE").await
    }

    /// Begins the next turn; the last one's work is kept if it was not undone.
    pub(super) fn next(&mut self) -> u64 {
        self.turn += 1;
        self.open = true;
        let [release, savepoint, _] = self.savepoints();
        if std::mem::replace(&mut self.has_savepoint, true) {
            self.post(release);
        }
        self.post(savepoint);
        self.turn
    }

    /// Whether a turn was begun in this transaction.
    pub(super) fn has_savepoint(&self) -> bool {
        self.has_savepoint
    }

    /// Undoes the work of this turn, which from now on is over.
    pub(super) async fn undo(&mut self) -> Result<(), Error> {
        self.open = false;
        let [_, _, rollback] = self.savepoints();
        self.run(rollback).await
    }

    /// Ends the turn, whose ever it is.
    pub(super) fn end(&mut self) {
        self.open = false;
    }

    pub(super) fn is_open(&self, turn: u64) -> bool {
        self.open && self.turn == turn
    }

    fn savepoints(&self) -> [&'static str; 3] {
        SAVEPOINTS[usize::from(self.turn % 2 == 1)]
    }

    /// Runs a statement without an answer.
    pub(super) async fn run(&mut self, sql: &'static str) -> Result<(), Error> {
        self.send(&[&Statement::plain(sql)], false).await.map(drop)
    }

    /// Has a statement run without waiting for it, which would cost a round
    /// trip to the connection's thread. It runs before whatever is sent later;
    /// if it fails, nobody is told.
    fn post(&mut self, sql: &'static str) {
        let _ = query(sql).execute(&mut self.connection).now_or_never();
    }

    /// Runs statements, one after the other, in one round trip: the rows of the
    /// last come back, or only its first. After one that fails none is run.
    /// Those before the last give no rows.
    pub(super) async fn send(
        &mut self,
        statements: &[&Statement],
        first_only: bool,
    ) -> Result<Answers, Error> {
        let sent = exchange(&mut self.connection, statements, first_only).await;
        self.noted(sent)
    }

    /// Runs units of work of `each` statements in one round trip, and tells what
    /// became of each. Fails when one of them must be undone, which can only
    /// all of them be.
    pub(super) async fn send_units(
        &mut self,
        statements: &[&Statement],
        each: usize,
    ) -> Result<Vec<Outcome>, Error> {
        let sent = exchange_units(&mut self.connection, statements, each).await;
        self.noted(sent)
    }

    fn noted<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        if let Err(why) = &done
            && why.is_trouble()
        {
            self.trouble = Some(why.to_string());
        }
        done
    }

    pub(super) fn into_connection(self) -> SqliteConnection {
        self.connection
    }
}
