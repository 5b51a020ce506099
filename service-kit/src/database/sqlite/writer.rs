//! How a unit of work comes to write.

use std::{mem, sync::Arc};

use sqlx::{SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

#[cfg(feature = "test-util")]
use super::plain;
use super::{
    ACQUIRE,
    desk::Desk,
    group::{Clerk, TURN},
    statement::{Answers, Statement},
};
use crate::{
    changes::Changes,
    database::{Error, Row, Value, health::Told},
};

/// How many may wait for their turn; the next ones wait to wait.
const WAITING: usize = 256;
/// How many statements travel together at most: as many as a unit of work has,
/// and few enough that their text is short.
const POSTED: usize = 16;

/// Where turns to write are asked for. Served first come, first served, by a
/// task that ends with the last clone.
#[derive(Clone, Debug)]
pub(in crate::database) struct Writer {
    queue: mpsc::Sender<Ask>,
    health: Told,
    /// Whose connections write instead, each for itself.
    #[cfg(feature = "test-util")]
    plain: Option<sqlx::SqlitePool>,
}

/// What the task is asked for.
#[derive(Debug)]
pub(super) enum Ask {
    Turn(Give),
    Close,
}

/// Where a turn is handed over.
pub(super) type Give = oneshot::Sender<Result<Turn, Error>>;

impl Writer {
    pub(super) fn start(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        changes: Changes,
        health: Told,
    ) -> Self {
        let (queue, asked) = mpsc::channel(WAITING);
        let clerk = Clerk::new(options, connection, asked, changes, health.clone());
        // Ends when the queue does.
        tokio::spawn(clerk.serve());
        Self {
            queue,
            health,
            #[cfg(feature = "test-util")]
            plain: None,
        }
    }

    /// The same, but nobody commits with others.
    #[cfg(feature = "test-util")]
    pub(in crate::database) fn plain(self, pool: sqlx::SqlitePool) -> Self {
        Self { plain: Some(pool), ..self }
    }

    /// Waits for a turn.
    pub(in crate::database) async fn begin(&self) -> Result<Turn, Error> {
        if let Some(why) = self.health.why() {
            return Err(Error::Failing(why));
        }
        #[cfg(feature = "test-util")]
        if let Some(pool) = &self.plain {
            return Ok(Turn { at: At::Plain(plain::begin(pool).await?), posted: Vec::new() });
        }
        let turn = async {
            let (give, given) = oneshot::channel();
            self.queue.send(Ask::Turn(give)).await.map_err(|_| sqlx::Error::PoolClosed)?;
            given.await.map_err(|_| sqlx::Error::PoolClosed)?
        };
        timeout(ACQUIRE, turn).await.unwrap_or(Err(Error::Slow(ACQUIRE)))
    }

    /// Refuses new work, and waits until what was asked for before is done.
    pub(in crate::database) async fn close(&self) {
        if self.queue.send(Ask::Close).await.is_ok() {
            self.queue.closed().await;
        }
    }
}

/// The turn of one unit of work: it alone writes, in a savepoint of a
/// transaction that it shares with others. Dropping it undoes the work.
#[derive(Debug)]
pub(in crate::database) struct Turn {
    at: At,
    /// What is to be run before whatever comes next.
    posted: Vec<Statement>,
}

/// Where a unit of work writes.
#[derive(Debug)]
enum At {
    Desk {
        desk: Arc<Mutex<Desk>>,
        number: u64,
        end: oneshot::Sender<End>,
    },
    #[cfg(feature = "test-util")]
    Plain(sqlx::Transaction<'static, sqlx::Sqlite>),
}

/// How a turn ended.
#[derive(Debug)]
pub(super) struct End {
    /// The keys of what it changed, if its work is kept.
    pub(super) kept: Option<Vec<String>>,
    /// Told once the transaction is committed, or has failed.
    pub(super) told: oneshot::Sender<Result<(), Error>>,
}

impl Turn {
    pub(super) fn new(desk: Arc<Mutex<Desk>>, number: u64, end: oneshot::Sender<End>) -> Self {
        Self { at: At::Desk { desk, number, end }, posted: Vec::new() }
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
        if self.posted.len() < POSTED { Ok(()) } else { self.flush().await }
    }

    pub(in crate::database) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<u64, Error> {
        Ok(self.send(sql, values, false).await?.count())
    }

    pub(in crate::database) async fn row(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Option<Row>, Error> {
        Ok(self.send(sql, values, true).await?.into_rows().next())
    }

    pub(in crate::database) async fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<Row>, Error> {
        Ok(self.send(sql, values, false).await?.into_rows().collect())
    }

    /// Runs what was posted.
    pub(in crate::database) async fn flush(&mut self) -> Result<(), Error> {
        if self.posted.is_empty() {
            return Ok(());
        }
        let statements = mem::take(&mut self.posted);
        self.at.send(statements, false).await.map(drop)
    }

    /// Ends the turn; completes when the transaction has. What an undone turn
    /// has read was written by others in the same transaction, perhaps: that
    /// it was so may be said only after their commit too.
    pub(in crate::database) async fn end(self, kept: Option<Vec<String>>) -> Result<(), Error> {
        let end = match self.at {
            At::Desk { end, .. } => end,
            #[cfg(feature = "test-util")]
            At::Plain(open) => return plain::end(open, kept.is_some()).await,
        };
        let (told, ended) = oneshot::channel();
        end.send(End { kept, told }).map_err(|_| Error::Slow(TURN))?;
        ended.await.unwrap_or_else(|_| Err(Error::Undurable("the writer ended".to_owned())))
    }

    async fn send(
        &mut self,
        sql: &'static str,
        values: &[Value],
        first_only: bool,
    ) -> Result<Answers, Error> {
        let mut statements = mem::take(&mut self.posted);
        statements.push(Statement { sql, values: values.to_vec(), must_touch: false });
        self.at.send(statements, first_only).await
    }
}

impl At {
    async fn send(&mut self, statements: Vec<Statement>, first_only: bool) -> Result<Answers, Error> {
        match self {
            Self::Desk { desk, number, .. } => {
                let mut desk = desk.lock().await;
                if !desk.is_open(*number) {
                    return Err(Error::Slow(TURN));
                }
                desk.send(statements, first_only).await
            }
            #[cfg(feature = "test-util")]
            Self::Plain(open) => plain::send(open, statements, first_only).await,
        }
    }
}
