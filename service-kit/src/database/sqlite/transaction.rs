//! A transaction on SQLite, from its first statement to its end.

use std::mem;

use futures_util::future::BoxFuture;

use super::{
    statement::{Statement, StatementResults},
    writer::{WriteTurn, Writer},
};
use crate::database::{Error, Row, Value};

/// The most statements in one round trip: as many as a unit of work has, and few
/// enough that their text is short.
const MAX_POSTED: usize = 16;

/// A transaction. It takes a turn to write when it first needs a result; one
/// that needs none goes to the writer as a batch.
#[derive(Debug)]
pub(in crate::database) struct SqliteTransaction {
    writer: Writer,
    turn: Option<WriteTurn>,
    /// Statements to run before the next one.
    posted: Vec<Statement>,
}

impl SqliteTransaction {
    pub(in crate::database) fn new(writer: &Writer) -> Self {
        Self { writer: writer.clone(), turn: None, posted: Vec::new() }
    }

    /// Enqueues a statement, to run with the next one. With `must_touch` it fails
    /// when it touches no row.
    pub(in crate::database) async fn post(
        &mut self,
        sql: &'static str,
        values: &[Value],
        must_touch: bool,
    ) -> Result<(), Error> {
        self.posted.push(Statement { sql, values: values.to_vec(), must_touch });
        if self.posted.len() < MAX_POSTED { Ok(()) } else { self.send(false).await.map(drop) }
    }

    pub(in crate::database) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<u64, Error> {
        Ok(self.run(sql, values, false).await?.count())
    }

    pub(in crate::database) async fn row(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Option<Row>, Error> {
        Ok(self.run(sql, values, true).await?.into_rows().next())
    }

    pub(in crate::database) async fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<Row>, Error> {
        Ok(self.run(sql, values, false).await?.into_rows().collect())
    }

    /// Completes when the writes are durable; `keys` are announced then.
    pub(in crate::database) async fn commit(mut self, keys: Vec<String>) -> Result<(), Error> {
        if self.turn.is_some() && !self.posted.is_empty() {
            let sent = self.send(false).await;
            if sent.is_err() {
                self.rollback().await?;
                return sent.map(drop);
            }
        }
        match self.turn {
            Some(turn) => turn.end(Some(keys)).await,
            None if self.posted.is_empty() => Ok(()),
            None => Box::pin(self.writer.write(self.posted, keys)).await,
        }
    }

    /// Completes when the writes are undone and everything read is durable.
    pub(in crate::database) async fn rollback(self) -> Result<(), Error> {
        match self.turn {
            Some(turn) => turn.end(None).await,
            None => Ok(()),
        }
    }

    async fn run(
        &mut self,
        sql: &'static str,
        values: &[Value],
        first_only: bool,
    ) -> Result<StatementResults, Error> {
        self.posted.push(Statement { sql, values: values.to_vec(), must_touch: false });
        self.send(first_only).await
    }

    /// Sends all posted statements. Boxed to keep the callers' futures small.
    fn send(&mut self, first_only: bool) -> BoxFuture<'_, Result<StatementResults, Error>> {
        Box::pin(async move {
            let turn = match &mut self.turn {
                Some(turn) => turn,
                none => none.insert(self.writer.begin().await?),
            };
            let posted = mem::take(&mut self.posted);
            turn.send(&posted.iter().collect::<Vec<_>>(), first_only).await
        })
    }
}
