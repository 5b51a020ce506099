//! How a unit of work comes to write.

use std::sync::Arc;

use sqlx::{SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Mutex, MutexGuard, mpsc, oneshot},
    time::timeout,
};

use super::{
    ACQUIRE,
    desk::Desk,
    group::{Clerk, TURN},
};
use crate::{
    changes::Changes,
    database::{Error, Row, Value, health::Told},
};

/// How many may wait for their turn; the next ones wait to wait.
const WAITING: usize = 256;

/// Where turns to write are asked for. Served first come, first served, by a
/// task that ends with the last clone.
#[derive(Clone, Debug)]
pub(in crate::database) struct Writer {
    queue: mpsc::Sender<Ask>,
    health: Told,
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
        Self { queue, health }
    }

    /// Waits for a turn.
    pub(in crate::database) async fn begin(&self) -> Result<Turn, Error> {
        if let Some(why) = self.health.why() {
            return Err(Error::Failing(why));
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
    pub(super) desk: Arc<Mutex<Desk>>,
    pub(super) number: u64,
    pub(super) end: oneshot::Sender<End>,
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
    pub(in crate::database) async fn execute(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<u64, Error> {
        Ok(self.desk().await?.execute(sql, values).await?.rows_affected())
    }

    pub(in crate::database) async fn row(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Option<Row>, Error> {
        self.desk().await?.row(sql, values).await
    }

    pub(in crate::database) async fn rows(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<Row>, Error> {
        self.desk().await?.rows(sql, values).await
    }

    /// Ends the turn; completes when the transaction has. What an undone turn
    /// has read was written by others in the same transaction, perhaps: that
    /// it was so may be said only after their commit too.
    pub(in crate::database) async fn end(self, kept: Option<Vec<String>>) -> Result<(), Error> {
        let (told, ended) = oneshot::channel();
        self.end.send(End { kept, told }).map_err(|_| Error::Slow(TURN))?;
        ended.await.unwrap_or_else(|_| Err(Error::Undurable("the writer ended".to_owned())))
    }

    async fn desk(&self) -> Result<MutexGuard<'_, Desk>, Error> {
        let desk = self.desk.lock().await;
        if desk.is_open(self.number) { Ok(desk) } else { Err(Error::Slow(TURN)) }
    }
}
