//! A unit of work, from its first statement to its end.

use std::mem;

use futures_util::future::BoxFuture;

use super::{
    statement::{Answers, Statement},
    writer::{Turn, Writer},
};
use crate::database::{Error, Row, Value};

/// How many statements travel together at most: as many as a unit of work has,
/// and few enough that their text is short.
const TOGETHER: usize = 16;

/// A unit of work. It takes a turn to write when it first needs an answer; one
/// that needs none is written by the task that gives turns, as a whole.
#[derive(Debug)]
pub(in crate::database) struct Work {
    writer: Writer,
    turn: Option<Turn>,
    /// What is to be run before whatever comes next.
    posted: Vec<Statement>,
}

impl Work {
    pub(in crate::database) fn new(writer: &Writer) -> Self {
        Self { writer: writer.clone(), turn: None, posted: Vec::new() }
    }

    /// Has a statement run with the next one; with `must_touch` it fails when
    /// it touches no row.
    pub(in crate::database) async fn post(
        &mut self,
        sql: &'static str,
        values: &[Value],
        must_touch: bool,
    ) -> Result<(), Error> {
        self.posted.push(Statement { sql, values: values.to_vec(), must_touch });
        if self.posted.len() < TOGETHER { Ok(()) } else { self.send(false).await.map(drop) }
    }

    pub(in crate::database) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<u64, Error> {
        Ok(self.ask(sql, values, false).await?.count())
    }

    pub(in crate::database) async fn row(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Option<Row>, Error> {
        Ok(self.ask(sql, values, true).await?.into_rows().next())
    }

    pub(in crate::database) async fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<Row>, Error> {
        Ok(self.ask(sql, values, false).await?.into_rows().collect())
    }

    /// Completes when what it wrote is durable; then whoever subscribed to
    /// `keys` hears of it.
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

    /// Completes when what it has read is durable, and what it wrote is gone.
    pub(in crate::database) async fn rollback(self) -> Result<(), Error> {
        match self.turn {
            Some(turn) => turn.end(None).await,
            None => Ok(()),
        }
    }

    async fn ask(&mut self, sql: &'static str, values: &[Value], first_only: bool) -> Result<Answers, Error> {
        self.posted.push(Statement { sql, values: values.to_vec(), must_touch: false });
        self.send(first_only).await
    }

    /// Boxed, or all that writes would be as large.
    fn send(&mut self, first_only: bool) -> BoxFuture<'_, Result<Answers, Error>> {
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
