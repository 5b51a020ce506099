//! The queue in front of the one connection that writes.

use std::sync::Arc;

use sqlx::{SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

#[cfg(feature = "test-util")]
use super::plain;
use super::{
    ACQUIRE_TIMEOUT,
    group_commit::{GroupCommitter, TURN_TIMEOUT},
    statement::{Statement, StatementResults},
    writer_connection::WriterConnection,
};
use crate::{
    changes::Changes,
    database::{Error, health::HealthReporter},
};

/// The capacity of the queue. Further requests wait for a place in it.
const MAX_QUEUED: usize = 256;

/// A handle to the task that writes. Requests are served in order of arrival.
/// The task ends with the last clone.
#[derive(Clone, Debug)]
pub(in crate::database) struct Writer {
    queue: mpsc::Sender<WriterMessage>,
    health: HealthReporter,
    /// Connections that write instead, each with commits of its own.
    #[cfg(feature = "test-util")]
    plain: Option<sqlx::SqlitePool>,
}

#[derive(Debug)]
pub(super) enum WriterMessage {
    Write(WriteRequest),
    Close,
}

pub(super) type TurnSender = oneshot::Sender<Result<WriteTurn, Error>>;

/// A unit of work that waits to be written.
#[derive(Debug)]
pub(super) enum WriteRequest {
    /// The caller writes it and needs a turn for that.
    Turn(TurnSender),
    /// The task writes it.
    Batch(Batch),
}

/// A unit of work whose statements are all known.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) statements: Vec<Statement>,
    /// The keys of the changes to announce.
    pub(super) keys: Vec<String>,
    /// Resolved once the batch is durable, or has failed.
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

impl Batch {
    /// The statements' texts; equal for batches that differ in values only.
    pub(super) fn shape(&self) -> impl Iterator<Item = *const u8> {
        self.statements.iter().map(|statement| statement.sql.as_ptr())
    }
}

impl WriteRequest {
    /// True when the caller no longer waits.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Turn(sender) => sender.is_closed(),
            Self::Batch(batch) => batch.reply.is_closed(),
        }
    }

    /// Answers that nothing was written.
    pub(super) fn reject(self, error: Error) {
        // A caller that no longer waits needs no answer.
        match self {
            Self::Turn(sender) => drop(sender.send(Err(error))),
            Self::Batch(batch) => drop(batch.reply.send(Err(error))),
        }
    }
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        changes: Changes,
        health: HealthReporter,
    ) -> Self {
        let (queue, requests) = mpsc::channel(MAX_QUEUED);
        // Ends when the queue does.
        tokio::spawn(GroupCommitter::new(options, connection, requests, changes, health.clone()).run());
        Self {
            queue,
            health,
            #[cfg(feature = "test-util")]
            plain: None,
        }
    }

    /// The same without group commit.
    #[cfg(feature = "test-util")]
    pub(in crate::database) fn plain(self, pool: sqlx::SqlitePool) -> Self {
        Self { plain: Some(pool), ..self }
    }

    /// Fails while writing is known to fail.
    pub(in crate::database) fn check(&self) -> Result<(), Error> {
        self.health.failure().map_or(Ok(()), |cause| Err(Error::Failing(cause)))
    }

    /// Waits for a turn.
    pub(super) async fn begin(&self) -> Result<WriteTurn, Error> {
        self.check()?;
        #[cfg(feature = "test-util")]
        if let Some(pool) = &self.plain {
            return plain::begin(pool).await.map(WriteTurn::Plain);
        }
        let (sender, turn) = oneshot::channel();
        self.request(WriteRequest::Turn(sender), turn).await
    }

    /// Writes a unit of work; completes when it is durable. After
    /// [`Error::Slow`] it may be durable or not.
    pub(super) async fn write(&self, statements: Vec<Statement>, keys: Vec<String>) -> Result<(), Error> {
        self.check()?;
        #[cfg(feature = "test-util")]
        if let Some(pool) = &self.plain {
            return plain::write(pool, &statements).await;
        }
        let (reply, done) = oneshot::channel();
        self.request(WriteRequest::Batch(Batch { statements, keys, reply }), done).await
    }

    async fn request<T>(
        &self,
        request: WriteRequest,
        reply: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let replied = async {
            self.queue.send(WriterMessage::Write(request)).await.map_err(|_| sqlx::Error::PoolClosed)?;
            reply.await.map_err(|_| sqlx::Error::PoolClosed)?
        };
        timeout(ACQUIRE_TIMEOUT, replied).await.unwrap_or(Err(Error::Slow(ACQUIRE_TIMEOUT)))
    }

    /// Rejects new requests, and waits until those before are done.
    pub(in crate::database) async fn close(&self) {
        if self.queue.send(WriterMessage::Close).await.is_ok() {
            self.queue.closed().await;
        }
    }
}

/// The turn of one unit of work. It writes in a savepoint of a transaction that
/// it shares with others; no other unit writes meanwhile. Dropping it rolls the
/// work back.
#[derive(Debug)]
pub(super) enum WriteTurn {
    Shared {
        connection: Arc<Mutex<WriterConnection>>,
        number: u64,
        end: oneshot::Sender<TurnEnd>,
    },
    /// In a transaction of its own.
    #[cfg(feature = "test-util")]
    Plain(sqlx::Transaction<'static, sqlx::Sqlite>),
}

/// The end of a turn.
#[derive(Debug)]
pub(super) struct TurnEnd {
    /// The keys of the changes, unless the work was rolled back.
    pub(super) committed: Option<Vec<String>>,
    /// The reply to send although the transaction commits.
    pub(super) error: Option<Error>,
    /// Resolved once the transaction is committed, or has failed.
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

impl WriteTurn {
    pub(super) async fn send(
        &mut self,
        statements: &[&Statement],
        first_only: bool,
    ) -> Result<StatementResults, Error> {
        match self {
            Self::Shared { connection, number, .. } => {
                let mut connection = connection.lock().await;
                if !connection.is_open(*number) {
                    return Err(Error::Slow(TURN_TIMEOUT));
                }
                connection.send(statements, first_only).await
            }
            #[cfg(feature = "test-util")]
            Self::Plain(open) => plain::send(open, statements, first_only).await,
        }
    }

    /// Ends the turn; completes when the transaction does. That holds for a
    /// rollback too: what the turn has read may have been written by others in
    /// the same transaction, and may be passed on only after their commit.
    pub(super) async fn end(self, committed: Option<Vec<String>>) -> Result<(), Error> {
        let end = match self {
            Self::Shared { end, .. } => end,
            #[cfg(feature = "test-util")]
            Self::Plain(open) => return plain::end(open, committed.is_some()).await,
        };
        let (reply, ended) = oneshot::channel();
        end.send(TurnEnd { committed, error: None, reply }).map_err(|_| Error::Slow(TURN_TIMEOUT))?;
        ended.await.unwrap_or_else(|_| Err(Error::Undurable("the writer ended".to_owned())))
    }
}
