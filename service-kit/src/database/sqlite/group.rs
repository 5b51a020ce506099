//! Many units of work in one transaction: what makes a commit durable costs
//! far more than what most units write, and is paid once for all that wait.

use std::{iter, sync::Arc, time::Duration};

use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    ASK, BUSY,
    desk::Desk,
    pace::Pace,
    probe::probe,
    statement::Outcome,
    writer::{Ask, End, Give, Turn, Whole, Wish},
};
use crate::{
    changes::Changes,
    database::{Error, health::Told},
};

/// How many units may share a transaction.
const MOST: usize = 64;
/// After how long a transaction takes in no further unit, so that the first
/// does not wait long for the last.
const LONG: Duration = Duration::from_millis(20);
/// How many units of the same statements travel together: each number of them
/// is a text of its own to the connection, which keeps a hundred.
const AT_ONCE: usize = 8;
/// How long one unit may keep its turn.
pub(super) const TURN: Duration = Duration::from_secs(3);
/// How often a disk that failed is probed.
const PROBE: Duration = Duration::from_millis(500);
/// How long a turn that is over is waited for.
const CLOSE: Duration = Duration::from_secs(1);
/// How long the last checkpoint may take.
const LAST_CHECKPOINT: Duration = Duration::from_secs(3);

/// Carries the log over to the file and closes. Only the last connection does
/// so by itself, and it may be one that is dropped with its thread, or another
/// replica's; whoever copies the file after a clean stop shall have it all. A
/// reader of another replica makes it carry over less, which is no failure.
async fn close(mut connection: SqliteConnection) -> Result<(), sqlx::Error> {
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    connection.close().await
}

/// Owns the one connection that writes.
pub(super) struct Clerk {
    options: SqliteConnectOptions,
    /// None while writing fails.
    desk: Option<Arc<Mutex<Desk>>>,
    queue: mpsc::Receiver<Ask>,
    changes: Changes,
    health: Told,
    pace: Pace,
    closing: bool,
}

impl Clerk {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        queue: mpsc::Receiver<Ask>,
        changes: Changes,
        health: Told,
    ) -> Self {
        let desk = Some(Arc::new(Mutex::new(Desk::new(connection))));
        Self { options, desk, queue, changes, health, pace: Pace::new(), closing: false }
    }

    /// Writes whatever is asked for, until nobody can ask any more.
    pub(super) async fn serve(mut self) {
        while !self.closing {
            let Some(desk) = self.desk.clone() else {
                self.mend().await;
                continue;
            };
            self.pace.give_way().await;
            let Some(first) = self.wait().await else { break };
            if let Err(why) = self.group(&desk, first).await {
                self.health.failing(why);
                self.desk = None;
                // Whoever holds a turn still is told that it is over.
                drop(timeout(CLOSE, desk.lock()).await.map(|mut desk| desk.end()));
            }
        }
        if let Some(desk) = self.desk.take().and_then(Arc::into_inner) {
            // What cannot be closed in time is closed by the end of the process.
            let _ = timeout(LAST_CHECKPOINT, close(desk.into_inner().into_connection())).await;
        }
    }

    /// The next unit that waits to be written, and is still wanted.
    async fn wait(&mut self) -> Option<Wish> {
        let idle = Instant::now();
        loop {
            match self.queue.recv().await {
                Some(Ask::Write(wish)) if wish.is_void() => {}
                Some(Ask::Write(wish)) => {
                    self.pace.was_idle(idle.elapsed());
                    return Some(wish);
                }
                Some(Ask::Close) | None => return None,
            }
        }
    }

    /// As [`wait`](Self::wait), of those who wait already.
    fn waiting(&mut self) -> Option<Wish> {
        loop {
            match self.queue.try_recv() {
                Ok(Ask::Write(wish)) if wish.is_void() => {}
                Ok(Ask::Write(wish)) => return Some(wish),
                Ok(Ask::Close) => self.closing = true,
                Err(_) => return None,
            }
        }
    }

    /// One transaction. Fails when its connection shall not be used again, and
    /// says why.
    async fn group(&mut self, desk: &Arc<Mutex<Desk>>, first: Wish) -> Result<(), String> {
        if let Err(why) = self.begin(desk).await {
            let trouble = why.is_trouble().then(|| why.to_string());
            first.refuse(why);
            return trouble.map_or(Ok(()), Err);
        }
        let until = Instant::now() + LONG;
        let mut group = Group::default();
        let mut next = Some(first);
        let mut done = Ok(());
        while done.is_ok() && next.is_some() {
            let mut wholes = Vec::new();
            while let Some(Wish::Whole(whole)) = next {
                wholes.push(whole);
                next = if group.size + wholes.len() < MOST { self.waiting() } else { None };
            }
            group.size += wholes.len();
            done = self.write(desk, wholes, &mut group).await;
            if let Some(Wish::Turn(give)) = next.take() {
                match &done {
                    Ok(()) => done = turn(desk, give, &mut group).await,
                    Err(why) => Wish::Turn(give).refuse(Error::Failing(why.to_string())),
                }
                group.size += 1;
            }
            if done.is_ok() && group.size < MOST && Instant::now() < until {
                next = self.waiting();
            }
        }
        if done.is_ok() {
            done = desk.lock().await.run("COMMIT").await;
        }
        self.tell(group, &done);
        let mut desk = desk.lock().await;
        if let Err(why) = done {
            // SQLite may have undone it already.
            let _ = desk.run("ROLLBACK").await;
            return Err(why.to_string());
        }
        desk.trouble.take().map_or(Ok(()), Err)
    }

    /// Begins as the writer at once: one that reads first, and then cannot write
    /// because another process has, would have to start over.
    async fn begin(&mut self, desk: &Mutex<Desk>) -> Result<(), Error> {
        let mut desk = desk.lock().await;
        let give_up = Instant::now() + BUSY;
        loop {
            match desk.begin().await {
                Err(why) if why.is_busy() && Instant::now() < give_up => sleep(ASK).await,
                begun => {
                    begun?;
                    return self.pace.look(&mut desk).await;
                }
            }
        }
    }

    /// Writes units that nobody waits in. Fails when the work of one could not
    /// be undone, and with it the transaction.
    async fn write(
        &mut self,
        desk: &Mutex<Desk>,
        mut wholes: Vec<Whole>,
        group: &mut Group,
    ) -> Result<(), Error> {
        let mut seat = desk.lock().await;
        if seat.has_savepoint() {
            return write_carefully(&mut seat, wholes.into_iter(), group).await;
        }
        // None of them waits for another: they may come in any order.
        wholes.sort_by(|one, other| one.shape().cmp(other.shape()));
        let sent = write_together(&mut seat, &wholes).await;
        let all_sent = sent.is_ok();
        let outcomes = sent.unwrap_or_default().into_iter().chain(iter::repeat(Outcome::Written));
        group.plain.extend(wholes.into_iter().zip(outcomes));
        if all_sent {
            return Ok(());
        }
        // Which seldom happens: all of it once more, each so that it can be undone.
        let _ = seat.run("ROLLBACK").await;
        drop(seat);
        self.begin(desk).await?;
        let again = std::mem::take(&mut group.plain).into_iter().map(|(whole, _)| whole);
        write_carefully(&mut *desk.lock().await, again, group).await
    }

    /// Tells all units how their transaction ended.
    fn tell(&self, group: Group, done: &Result<(), Error>) {
        let Group { plain, ended, .. } = group;
        let plain = plain.into_iter().map(|(Whole { keys, told, .. }, outcome)| match outcome {
            Outcome::Written => End { kept: Some(keys), failed: None, told },
            Outcome::Void => End { kept: None, failed: Some(Error::Missed), told },
        });
        for End { kept, failed, told } in plain.chain(ended) {
            if done.is_ok() {
                for key in kept.unwrap_or_default() {
                    self.changes.announce(&key);
                }
            }
            let answer = match (done, failed) {
                (Err(why), _) => Err(Error::Undurable(why.to_string())),
                (Ok(()), failed) => failed.map_or(Ok(()), Err),
            };
            // Who no longer waits needs no answer.
            let _ = told.send(answer);
        }
    }

    /// Probes until writing is possible again; who asks meanwhile is refused.
    async fn mend(&mut self) {
        loop {
            match probe(&self.options).await {
                Ok(connection) => {
                    self.desk = Some(Arc::new(Mutex::new(Desk::new(connection))));
                    return self.health.healthy();
                }
                Err(why) => self.health.failing(why.to_string()),
            }
            if timeout(PROBE, self.refuse()).await.is_ok() {
                self.closing = true;
                return;
            }
        }
    }

    /// Refuses all who ask; completes when nobody can any more.
    async fn refuse(&mut self) {
        while let Some(Ask::Write(wish)) = self.queue.recv().await {
            wish.refuse(Error::Failing(self.health.why().unwrap_or_default()));
        }
    }
}

/// Units that are committed together.
#[derive(Default)]
struct Group {
    /// Those that were written without a way to undo them alone.
    plain: Vec<(Whole, Outcome)>,
    ended: Vec<End>,
    size: usize,
}

/// Writes units, as many of the same statements at once as may be, and tells
/// what became of each.
async fn write_together(desk: &mut Desk, wholes: &[Whole]) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::with_capacity(wholes.len());
    for alike in wholes.chunk_by(|one, next| one.shape().eq(next.shape())) {
        for some in alike.chunks(AT_ONCE) {
            let statements: Vec<_> = some.iter().flat_map(|whole| &whole.statements).collect();
            outcomes.append(&mut desk.send_units(&statements, statements.len() / some.len()).await?);
        }
    }
    Ok(outcomes)
}

/// Writes units so that each can be undone alone. Fails when one could not be.
async fn write_carefully(
    desk: &mut Desk,
    mut wholes: impl Iterator<Item = Whole>,
    group: &mut Group,
) -> Result<(), Error> {
    for Whole { statements, keys, told } in wholes.by_ref() {
        desk.next();
        let sent = desk.send(&statements.iter().collect::<Vec<_>>(), false).await;
        desk.end();
        let (failed, undone) = match sent {
            Ok(_) => (None, Ok(())),
            Err(why) => (Some(why), desk.undo().await),
        };
        let kept = failed.is_none().then_some(keys);
        group.ended.push(End { kept, failed, told });
        if undone.is_err() {
            // Whom the end of the transaction concerns, too.
            group.plain.extend(wholes.map(|whole| (whole, Outcome::Written)));
            return undone;
        }
    }
    Ok(())
}

/// Gives one unit its turn. Fails when its work could not be undone.
async fn turn(desk: &Arc<Mutex<Desk>>, give: Give, group: &mut Group) -> Result<(), Error> {
    let (end, ends) = oneshot::channel();
    let number = desk.lock().await.next();
    if give.send(Ok(Turn::Desk { desk: desk.clone(), number, end })).is_err() {
        // It left before it began.
        return Ok(());
    }
    let end = timeout(TURN, ends).await;
    let kept = matches!(&end, Ok(Ok(End { kept: Some(_), .. })));
    // Dropped half way, or overdue: nobody waits for an answer.
    group.ended.extend(end.ok().and_then(Result::ok));
    if kept { Ok(()) } else { desk.lock().await.undo().await }
}
