//! How a unit of work comes to write.

use std::sync::Arc;

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
    database::{Error, health::Told},
};

/// How many may wait for their turn; the next ones wait to wait.
const WAITING: usize = 256;

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
    Write(Wish),
    Close,
}

/// Where a turn is handed over.
pub(super) type Give = oneshot::Sender<Result<Turn, Error>>;

/// A unit of work that wants to be written.
#[derive(Debug)]
pub(super) enum Wish {
    /// By whom it is: they get a turn.
    Turn(Give),
    /// By the task itself.
    Whole(Whole),
}

/// A unit of work of statements that nobody waits for.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) statements: Vec<Statement>,
    /// What it changes.
    pub(super) keys: Vec<String>,
    /// Told once it is durable, or has failed.
    pub(super) told: oneshot::Sender<Result<(), Error>>,
}

impl Whole {
    /// What two units have in common that differ in values only.
    pub(super) fn shape(&self) -> impl Iterator<Item = *const u8> {
        self.statements.iter().map(|statement| statement.sql.as_ptr())
    }
}

impl Wish {
    /// Whether nobody wants it any more.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Self::Turn(give) => give.is_closed(),
            Self::Whole(whole) => whole.told.is_closed(),
        }
    }

    /// Nothing was written.
    pub(super) fn refuse(self, why: Error) {
        // Who no longer waits needs no answer.
        match self {
            Self::Turn(give) => drop(give.send(Err(why))),
            Self::Whole(whole) => drop(whole.told.send(Err(why))),
        }
    }
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        changes: Changes,
        health: Told,
    ) -> Self {
        let (queue, asked) = mpsc::channel(WAITING);
        // Ends when the queue does.
        tokio::spawn(Clerk::new(options, connection, asked, changes, health.clone()).serve());
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

    /// Whether there is any use in asking.
    pub(in crate::database) fn check(&self) -> Result<(), Error> {
        self.health.why().map_or(Ok(()), |why| Err(Error::Failing(why)))
    }

    /// Waits for a turn.
    pub(super) async fn begin(&self) -> Result<Turn, Error> {
        self.check()?;
        #[cfg(feature = "test-util")]
        if let Some(pool) = &self.plain {
            return plain::begin(pool).await.map(Turn::Plain);
        }
        let (give, given) = oneshot::channel();
        self.ask(Wish::Turn(give), given).await
    }

    /// Writes a unit of work; completes when it is durable. When it took too
    /// long it may be or not.
    pub(super) async fn write(&self, statements: Vec<Statement>, keys: Vec<String>) -> Result<(), Error> {
        self.check()?;
        #[cfg(feature = "test-util")]
        if let Some(pool) = &self.plain {
            return plain::write(pool, &statements).await;
        }
        let (told, done) = oneshot::channel();
        self.ask(Wish::Whole(Whole { statements, keys, told }), done).await
    }

    async fn ask<T>(&self, wish: Wish, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let asked = async {
            self.queue.send(Ask::Write(wish)).await.map_err(|_| sqlx::Error::PoolClosed)?;
            answer.await.map_err(|_| sqlx::Error::PoolClosed)?
        };
        timeout(ACQUIRE, asked).await.unwrap_or(Err(Error::Slow(ACQUIRE)))
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
pub(super) enum Turn {
    Desk {
        desk: Arc<Mutex<Desk>>,
        number: u64,
        end: oneshot::Sender<End>,
    },
    /// In a transaction of its own.
    #[cfg(feature = "test-util")]
    Plain(sqlx::Transaction<'static, sqlx::Sqlite>),
}

/// How a turn ended.
#[derive(Debug)]
pub(super) struct End {
    /// The keys of what it changed, if its work is kept.
    pub(super) kept: Option<Vec<String>>,
    /// What it is told in any case once the transaction is committed.
    pub(super) failed: Option<Error>,
    /// Told once the transaction is committed, or has failed.
    pub(super) told: oneshot::Sender<Result<(), Error>>,
}

impl Turn {
    pub(super) async fn send(
        &mut self,
        statements: &[&Statement],
        first_only: bool,
    ) -> Result<Answers, Error> {
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

    /// Ends the turn; completes when the transaction has. What an undone turn
    /// has read was written by others in the same transaction, perhaps: that
    /// it was so may be said only after their commit too.
    pub(super) async fn end(self, kept: Option<Vec<String>>) -> Result<(), Error> {
        let end = match self {
            Self::Desk { end, .. } => end,
            #[cfg(feature = "test-util")]
            Self::Plain(open) => return plain::end(open, kept.is_some()).await,
        };
        let (told, ended) = oneshot::channel();
        end.send(End { kept, failed: None, told }).map_err(|_| Error::Slow(TURN))?;
        ended.await.unwrap_or_else(|_| Err(Error::Undurable("the writer ended".to_owned())))
    }
}
