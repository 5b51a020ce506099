//! Group commit: many units of work in one transaction. Making a commit durable
//! costs far more than most units write, and is paid once for all that wait.

use std::{iter, sync::Arc, time::Duration};

use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    BUSY_POLL_INTERVAL, BUSY_TIMEOUT,
    lock_sharing::LockSharing,
    probe::probe,
    statement::UnitOutcome,
    writer::{Batch, TurnEnd, TurnSender, WriteRequest, WriteTurn, WriterMessage},
    writer_connection::WriterConnection,
};
use crate::{
    changes::Changes,
    database::{Error, health::HealthReporter},
};

const MAX_UNITS_PER_TRANSACTION: usize = 64;
/// The time after which a transaction takes in no further unit, so that the
/// first does not wait long for the last.
const MAX_TRANSACTION_TIME: Duration = Duration::from_millis(20);
/// The most batches of the same statements in one round trip. Each number of
/// them is a text of its own for the connection's statement cache, which holds
/// a hundred.
const MAX_BATCHES_PER_ROUND_TRIP: usize = 8;
/// The time for which one unit may keep its turn.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The time to wait for a statement of a turn that has ended.
const END_TURN_TIMEOUT: Duration = Duration::from_secs(1);
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(3);

/// Checkpoints the write-ahead log and closes. SQLite checkpoints by itself only
/// when the last connection closes, and that may be one that is dropped with its
/// thread, or another replica's; a copy of the file after a clean stop must be
/// complete. A reader of another replica makes it carry over less, which is no
/// failure.
async fn close(mut connection: SqliteConnection) -> Result<(), sqlx::Error> {
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    connection.close().await
}

/// The task that owns the one connection that writes.
pub(super) struct GroupCommitter {
    options: SqliteConnectOptions,
    /// `None` while writing fails.
    connection: Option<Arc<Mutex<WriterConnection>>>,
    queue: mpsc::Receiver<WriterMessage>,
    changes: Changes,
    health: HealthReporter,
    lock_sharing: LockSharing,
    is_closing: bool,
}

impl GroupCommitter {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        queue: mpsc::Receiver<WriterMessage>,
        changes: Changes,
        health: HealthReporter,
    ) -> Self {
        let connection = Some(Arc::new(Mutex::new(WriterConnection::new(connection))));
        let lock_sharing = LockSharing::new();
        Self { options, connection, queue, changes, health, lock_sharing, is_closing: false }
    }

    /// Serves write requests until the queue is closed.
    pub(super) async fn run(mut self) {
        while !self.is_closing {
            let Some(connection) = self.connection.clone() else {
                self.recover().await;
                continue;
            };
            self.lock_sharing.yield_lock().await;
            let Some(first) = self.next_request().await else { break };
            if let Err(why) = self.run_transaction(&connection, first).await {
                self.health.set_failing(why);
                self.connection = None;
                // A unit that still holds a turn finds that it is over.
                drop(timeout(END_TURN_TIMEOUT, connection.lock()).await.map(|mut open| open.end_turn()));
            }
        }
        if let Some(connection) = self.connection.take().and_then(Arc::into_inner) {
            // The end of the process closes a connection that is not closed in time.
            let _ = timeout(CHECKPOINT_TIMEOUT, close(connection.into_inner().into_connection())).await;
        }
    }

    /// Waits for the next request that is not abandoned.
    async fn next_request(&mut self) -> Option<WriteRequest> {
        let idle = Instant::now();
        loop {
            match self.queue.recv().await {
                Some(WriterMessage::Write(request)) if request.is_abandoned() => {}
                Some(WriterMessage::Write(request)) => {
                    self.lock_sharing.record_idle(idle.elapsed());
                    return Some(request);
                }
                Some(WriterMessage::Close) | None => return None,
            }
        }
    }

    /// Like [`next_request`](Self::next_request), among the requests that wait already.
    fn try_next_request(&mut self) -> Option<WriteRequest> {
        loop {
            match self.queue.try_recv() {
                Ok(WriterMessage::Write(request)) if request.is_abandoned() => {}
                Ok(WriterMessage::Write(request)) => return Some(request),
                Ok(WriterMessage::Close) => self.is_closing = true,
                Err(_) => return None,
            }
        }
    }

    /// Runs one transaction. Returns the reason when its connection must not be
    /// used again.
    async fn run_transaction(
        &mut self,
        connection: &Arc<Mutex<WriterConnection>>,
        first: WriteRequest,
    ) -> Result<(), String> {
        if let Err(error) = self.begin(connection).await {
            let failure = error.is_system_failure().then(|| error.to_string());
            first.reject(error);
            return failure.map_or(Ok(()), Err);
        }
        let until = Instant::now() + MAX_TRANSACTION_TIME;
        let mut group = CommitGroup::default();
        let mut next = Some(first);
        let mut result = Ok(());
        while result.is_ok() && next.is_some() {
            let mut batches = Vec::new();
            while let Some(WriteRequest::Batch(batch)) = next {
                batches.push(batch);
                let has_room = group.size + batches.len() < MAX_UNITS_PER_TRANSACTION;
                next = if has_room { self.try_next_request() } else { None };
            }
            group.size += batches.len();
            result = self.write_batches(connection, batches, &mut group).await;
            if let Some(WriteRequest::Turn(sender)) = next.take() {
                match &result {
                    Ok(()) => result = run_turn(connection, sender, &mut group).await,
                    Err(error) => {
                        WriteRequest::Turn(sender).reject(Error::Failing(error.to_string()));
                    }
                }
                group.size += 1;
            }
            if result.is_ok() && group.size < MAX_UNITS_PER_TRANSACTION && Instant::now() < until {
                next = self.try_next_request();
            }
        }
        if result.is_ok() {
            result = connection.lock().await.run("COMMIT").await;
        }
        self.reply(group, &result);
        let mut connection = connection.lock().await;
        if let Err(error) = result {
            // SQLite may have rolled back already.
            let _ = connection.run("ROLLBACK").await;
            return Err(error.to_string());
        }
        connection.failure.take().map_or(Ok(()), Err)
    }

    /// Takes the write lock at once: a transaction that reads first, and then
    /// cannot write because another process has, would have to start over.
    async fn begin(&mut self, connection: &Mutex<WriterConnection>) -> Result<(), Error> {
        let mut connection = connection.lock().await;
        let give_up = Instant::now() + BUSY_TIMEOUT;
        loop {
            match connection.begin_transaction().await {
                Err(error) if error.is_busy() && Instant::now() < give_up => sleep(BUSY_POLL_INTERVAL).await,
                begun => {
                    begun?;
                    return self.lock_sharing.detect_other_writers(&mut connection).await;
                }
            }
        }
    }

    /// Writes batches. Fails when the work of one could not be rolled back alone,
    /// and with it the transaction.
    async fn write_batches(
        &mut self,
        connection: &Mutex<WriterConnection>,
        mut batches: Vec<Batch>,
        group: &mut CommitGroup,
    ) -> Result<(), Error> {
        let mut open = connection.lock().await;
        if open.has_savepoint() {
            return write_each(&mut open, batches.into_iter(), group).await;
        }
        // None of them waits for another, so any order will do.
        batches.sort_by(|one, other| one.shape().cmp(other.shape()));
        let sent = write_together(&mut open, &batches).await;
        let all_sent = sent.is_ok();
        let outcomes = sent.unwrap_or_default().into_iter().chain(iter::repeat(UnitOutcome::Written));
        group.without_savepoint.extend(batches.into_iter().zip(outcomes));
        if all_sent {
            return Ok(());
        }
        // A rare case: run all of it once more, each with a savepoint.
        let _ = open.run("ROLLBACK").await;
        drop(open);
        self.begin(connection).await?;
        let again = std::mem::take(&mut group.without_savepoint).into_iter().map(|(batch, _)| batch);
        write_each(&mut *connection.lock().await, again, group).await
    }

    /// Replies to all units after the end of their transaction.
    fn reply(&self, group: CommitGroup, result: &Result<(), Error>) {
        let CommitGroup { without_savepoint, ended, .. } = group;
        let without_savepoint =
            without_savepoint.into_iter().map(|(Batch { keys, reply, .. }, outcome)| match outcome {
                UnitOutcome::Written => TurnEnd { committed: Some(keys), error: None, reply },
                UnitOutcome::NoEffect => TurnEnd { committed: None, error: Some(Error::Missed), reply },
            });
        for TurnEnd { committed, error, reply } in without_savepoint.chain(ended) {
            if result.is_ok() {
                for key in committed.unwrap_or_default() {
                    self.changes.announce(&key);
                }
            }
            let response = match (result, error) {
                (Err(commit), _) => Err(Error::Undurable(commit.to_string())),
                (Ok(()), error) => error.map_or(Ok(()), Err),
            };
            // A unit that has stopped waiting needs no reply.
            let _ = reply.send(response);
        }
    }

    /// Probes until writing is possible again; rejects requests meanwhile.
    async fn recover(&mut self) {
        loop {
            match probe(&self.options).await {
                Ok(connection) => {
                    self.connection = Some(Arc::new(Mutex::new(WriterConnection::new(connection))));
                    return self.health.set_healthy();
                }
                Err(error) => self.health.set_failing(error.to_string()),
            }
            if timeout(PROBE_INTERVAL, self.reject_requests()).await.is_ok() {
                self.is_closing = true;
                return;
            }
        }
    }

    /// Rejects all requests; completes when the queue is closed.
    async fn reject_requests(&mut self) {
        while let Some(WriterMessage::Write(request)) = self.queue.recv().await {
            request.reject(Error::Failing(self.health.failure().unwrap_or_default()));
        }
    }
}

/// Units that are committed together.
#[derive(Default)]
struct CommitGroup {
    /// Batches that can be rolled back only with the whole transaction.
    without_savepoint: Vec<(Batch, UnitOutcome)>,
    ended: Vec<TurnEnd>,
    size: usize,
}

/// Writes batches, as many of the same statements in one round trip as allowed.
async fn write_together(
    connection: &mut WriterConnection,
    batches: &[Batch],
) -> Result<Vec<UnitOutcome>, Error> {
    let mut outcomes = Vec::with_capacity(batches.len());
    for alike in batches.chunk_by(|one, next| one.shape().eq(next.shape())) {
        for some in alike.chunks(MAX_BATCHES_PER_ROUND_TRIP) {
            let statements: Vec<_> = some.iter().flat_map(|batch| &batch.statements).collect();
            outcomes.append(&mut connection.send_units(&statements, statements.len() / some.len()).await?);
        }
    }
    Ok(outcomes)
}

/// Writes each batch with a savepoint. Fails when one could not be rolled back.
async fn write_each(
    connection: &mut WriterConnection,
    mut batches: impl Iterator<Item = Batch>,
    group: &mut CommitGroup,
) -> Result<(), Error> {
    for Batch { statements, keys, reply } in batches.by_ref() {
        connection.begin_turn();
        let sent = connection.send(&statements.iter().collect::<Vec<_>>(), false).await;
        connection.end_turn();
        let (error, rolled_back) = match sent {
            Ok(_) => (None, Ok(())),
            Err(error) => (Some(error), connection.rollback_turn().await),
        };
        let committed = error.is_none().then_some(keys);
        group.ended.push(TurnEnd { committed, error, reply });
        if rolled_back.is_err() {
            // The rest ends with the transaction, too.
            group.without_savepoint.extend(batches.map(|batch| (batch, UnitOutcome::Written)));
            return rolled_back;
        }
    }
    Ok(())
}

/// Gives one unit its turn. Fails when its work could not be rolled back.
async fn run_turn(
    connection: &Arc<Mutex<WriterConnection>>,
    sender: TurnSender,
    group: &mut CommitGroup,
) -> Result<(), Error> {
    let (end, ended) = oneshot::channel();
    let number = connection.lock().await.begin_turn();
    if sender.send(Ok(WriteTurn::Shared { connection: connection.clone(), number, end })).is_err() {
        // The unit was dropped before it began.
        return Ok(());
    }
    let end = timeout(TURN_TIMEOUT, ended).await;
    let is_committed = matches!(&end, Ok(Ok(TurnEnd { committed: Some(_), .. })));
    // A unit that was dropped or is overdue waits for no reply.
    group.ended.extend(end.ok().and_then(Result::ok));
    if is_committed { Ok(()) } else { connection.lock().await.rollback_turn().await }
}
