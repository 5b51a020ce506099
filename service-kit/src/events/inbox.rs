//! The inbox: the events that a service has taken, and those that it has parked.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use mesh_proto::shop::events::v1::{Event, ParkedEvent};
use prost::Message;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};
use uuid::Uuid;

use super::{HandleError, Subscriber, counters::EventCounters, queue::reason};
use crate::{
    database::{Database, Error, Migration, Migrations, Row, Sql, Transaction},
    timestamp::Timestamp,
};

/// The table of an inbox; a step of the schema of every service that takes
/// events.
pub const INBOX: Migrations = Migrations {
    sqlite: &[Migration { name: "inbox", sql: include_str!("../../migrations/sqlite/inbox.sql") }],
    postgres: &[Migration { name: "inbox", sql: include_str!("../../migrations/postgres/inbox.sql") }],
};

/// The most events in one transaction, while none fails.
const MAX_EVENTS_PER_TRANSACTION: usize = 32;
/// The timeout of the subscriber's effects in one transaction.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(2);
/// The time after which a batch is answered with what was taken until then; its
/// sender waits 3 s.
pub(super) const MAX_BATCH_TIME: Duration = Duration::from_millis(800);
/// The age at which the record of an event is deleted.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// The age above which the record of an event may be deleted: an unknown event
/// of that age is parked. Two days less than [`RETENTION`], which another
/// machine's clock measures.
const MAX_EVENT_AGE: Duration = Duration::from_hours(5 * 24);
/// The interval between deletions of older records.
const CLEANUP_INTERVAL: Duration = Duration::from_mins(10);
/// The most rows that one transaction deletes.
const CLEANUP_BATCH_SIZE: u64 = 1_000;

const RECORD: &str =
    "INSERT INTO inbox (event_id, take_time) VALUES ($1, $2) ON CONFLICT (event_id) DO NOTHING";

const PARK: &str = "INSERT INTO inbox (event_id, take_time, parked, event) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (event_id) DO NOTHING";

const UNPARK: &str = "UPDATE inbox SET parked = NULL, event = NULL, take_time = $2 \
     WHERE event_id = $1 AND parked IS NOT NULL";

const PARK_AGAIN: &str =
    "UPDATE inbox SET parked = $2, attempts = attempts + 1 WHERE event_id = $1 AND parked IS NOT NULL";

const PARKED: &str = "SELECT event_id, event, parked, attempts FROM inbox WHERE parked IS NOT NULL \
     ORDER BY take_time, event_id LIMIT 1000";

const PARKED_ONE: &str = "SELECT event FROM inbox WHERE event_id = $1 AND parked IS NOT NULL";

const COUNT_PARKED: &str = "SELECT count(*) AS parked FROM inbox WHERE parked IS NOT NULL";

const DELETE_OLD: Sql = Sql::each(
    "DELETE FROM inbox WHERE event_id IN (SELECT event_id FROM inbox \
     WHERE parked IS NULL AND take_time < $1 ORDER BY take_time LIMIT $2)",
    // Replicas that delete at the same time skip each other's rows.
    "DELETE FROM inbox WHERE event_id IN (SELECT event_id FROM inbox \
     WHERE parked IS NULL AND take_time < $1 ORDER BY take_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
);

/// The inbox of a service, which takes each event once. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    database: Database,
    subscriber: Arc<dyn Subscriber>,
    counters: Arc<EventCounters>,
}

/// The progress with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The number of first events that were taken, now or before, or parked.
    pub(super) taken: usize,
    /// The failure of the next one; `None` also when time ran out.
    pub(super) failure: Option<Failure>,
}

/// The reason why an event was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The database is unavailable, for all events.
    Unavailable(String),
    /// The event or its aggregate failed; it may succeed later.
    Failed(String),
    /// This version does not understand the event.
    Malformed(String),
}

/// The outcome of a retry of a parked event.
pub(super) enum RetryOutcome {
    Handled,
    NotParked,
    Failed(String),
}

impl Inbox {
    pub(super) fn new(database: Database, subscriber: Arc<dyn Subscriber>) -> Self {
        Self { database, subscriber, counters: Arc::default() }
    }

    pub(super) fn counters(&self) -> &Arc<EventCounters> {
        &self.counters
    }

    /// Takes events in order until one fails.
    ///
    /// # Cancel safety
    /// The first events may have been taken.
    pub(super) async fn take(&self, events: &[Event]) -> Progress {
        let began = Instant::now();
        let mut taken = 0;
        for chunk in events.chunks(MAX_EVENTS_PER_TRANSACTION) {
            if chunk.len() > 1 && self.take_together(chunk).await {
                taken += chunk.len();
            } else {
                for event in chunk {
                    match self.take_one(event).await {
                        Ok(()) => taken += 1,
                        Err(failure) => return Progress { taken, failure: Some(failure) },
                    }
                    if began.elapsed() > MAX_BATCH_TIME {
                        return Progress { taken, failure: None };
                    }
                }
            }
            if began.elapsed() > MAX_BATCH_TIME {
                break;
            }
        }
        Progress { taken, failure: None }
    }

    /// Parks an event under `id`, also bytes that are no event.
    pub(super) async fn park(&self, id: &str, bytes: Vec<u8>, why: &str) -> Result<(), Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let values =
                [id.into(), Timestamp::now().micros().into(), reason(why).into(), bytes.clone().into()];
            let done = open.execute(PARK, &values).await;
            if let Some(done) = unit.end(open, done).await {
                if done? > 0 {
                    EventCounters::add(&self.counters.parked, 1);
                    warn!(id, "parked event {id}: {why}");
                }
                return Ok(());
            }
        }
    }

    /// Takes all in one transaction. Returns false when one fails.
    async fn take_together(&self, events: &[Event]) -> bool {
        if events.iter().any(|event| validation_error(event).is_some()) {
            return false;
        }
        matches!(self.run_transaction(events).await, Ok(()))
    }

    async fn take_one(&self, event: &Event) -> Result<(), Failure> {
        if let Some(why) = validation_error(event) {
            return Err(Failure::Malformed(why));
        }
        let why = match self.run_transaction(std::slice::from_ref(event)).await {
            Ok(()) => return Ok(()),
            Err(TransactionError::Retry(failure)) => return Err(failure),
            Err(TransactionError::Permanent(why)) => why,
        };
        let parked = self.park(&event.event_id, event.encode_to_vec(), &why).await;
        parked.map_err(|why| Failure::Unavailable(why.to_string()))
    }

    /// Records events and runs their effects, in one transaction.
    async fn run_transaction(&self, events: &[Event]) -> Result<(), TransactionError> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await.map_err(unavailable)?;
            let effects = AssertUnwindSafe(self.effects(&mut open, events)).catch_unwind();
            // After a timeout or panic the transaction is dropped, which rolls it
            // back.
            let done = match timeout(HANDLER_TIMEOUT, effects).await {
                Ok(Ok(done)) => done,
                Ok(Err(_)) => return Err(failed("its subscriber panicked".to_owned())),
                Err(_) => return Err(failed(format!("its subscriber took longer than {HANDLER_TIMEOUT:?}"))),
            };
            if matches!(done, Ok(0)) {
                open.set_rollback_only();
            }
            if let Some(done) = unit.end(open, done).await {
                let new = done?;
                EventCounters::add(&self.counters.delivered, new);
                EventCounters::add(&self.counters.duplicates, events.len() - new);
                return Ok(());
            }
        }
    }

    /// Runs the effects of new events; returns how many were new.
    async fn effects(&self, open: &mut Transaction, events: &[Event]) -> Result<usize, TransactionError> {
        let mut new = 0;
        for event in events {
            let values = [event.event_id.as_str().into(), Timestamp::now().micros().into()];
            // Waits for another transaction that records the same event.
            if open.execute(RECORD, &values).await.map_err(unavailable)? == 0 {
                continue;
            }
            if let Some(why) = age_error(event) {
                return Err(TransactionError::Permanent(why));
            }
            self.subscriber.handle(open, event).await?;
            new += 1;
        }
        Ok(new)
    }

    /// Handles a parked event.
    pub(super) async fn retry(&self, id: &str) -> Result<RetryOutcome, Error> {
        let Some(row) = self.database.row(PARKED_ONE, &[id.into()]).await? else {
            return Ok(RetryOutcome::NotParked);
        };
        let bytes: Vec<u8> = row.get("event")?;
        let why = match Event::decode(bytes.as_slice()) {
            Err(why) => why.to_string(),
            Ok(event) => match validation_error(&event) {
                Some(why) => why,
                None => match self.handle_parked(&event).await {
                    Ok(true) => return Ok(RetryOutcome::Handled),
                    Ok(false) => return Ok(RetryOutcome::NotParked),
                    Err(HandleError::Transient(why)) => return Err(why),
                    Err(HandleError::Permanent(why)) => why,
                },
            },
        };
        let mut open = self.database.begin().await?;
        open.execute(PARK_AGAIN, &[id.into(), reason(&why).into()]).await?;
        open.commit().await?;
        Ok(RetryOutcome::Failed(why))
    }

    async fn handle_parked(&self, event: &Event) -> Result<bool, HandleError> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let values = [event.event_id.as_str().into(), Timestamp::now().micros().into()];
            let done = match open.execute(UNPARK, &values).await {
                Ok(0) => Ok(false),
                Ok(_) => self.subscriber.handle(&mut open, event).await.map(|()| true),
                Err(why) => Err(why.into()),
            };
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// The parked events, oldest first, up to 1,000.
    pub(super) async fn parked(&self, name: &str) -> Result<Vec<ParkedEvent>, Error> {
        let parked = |row: &Row| {
            let bytes: Vec<u8> = row.get("event")?;
            let mut event = Event::decode(bytes.as_slice()).unwrap_or_default();
            // Retries name it by the row's id.
            event.event_id = row.get("event_id")?;
            let (reason, attempts) = (row.get("parked")?, row.get("attempts")?);
            Ok(ParkedEvent { event: Some(event), subscriber: name.to_owned(), reason, attempts })
        };
        self.database.rows(PARKED, &[]).await?.iter().map(parked).collect()
    }

    /// The number of parked events.
    pub(super) async fn count_parked(&self) -> Result<i64, Error> {
        let row = self.database.row(COUNT_PARKED, &[]).await?;
        row.map_or(Ok(0), |row| row.get("parked"))
    }

    /// Deletes old records at intervals; never ends.
    pub(super) async fn run_cleanup(self) {
        loop {
            // Random, so that replicas that started together do not coincide.
            sleep(CLEANUP_INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
            if let Err(why) = self.delete_older_than(RETENTION).await {
                error!(error = %why, "failed to delete old rows of `inbox`, retrying in 10 min: {why}");
            }
        }
    }

    /// Deletes records of events that were taken longer ago than `age`, in batches.
    pub(super) async fn delete_older_than(&self, age: Duration) -> Result<(), Error> {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::now().micros().saturating_sub(age);
        let limit = i64::try_from(CLEANUP_BATCH_SIZE).unwrap_or(i64::MAX);
        loop {
            let mut open = self.database.begin().await?;
            let deleted = open.execute(DELETE_OLD, &[before.into(), limit.into()]).await?;
            open.commit().await?;
            if deleted < CLEANUP_BATCH_SIZE {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let taken = self.counters.delivered.load(Relaxed);
        f.debug_struct("Inbox").field("taken", &taken).finish_non_exhaustive()
    }
}

/// The reason why a transaction of events was rolled back.
enum TransactionError {
    Retry(Failure),
    Permanent(String),
}

impl From<Error> for TransactionError {
    fn from(why: Error) -> Self {
        match why {
            Error::Unavailable(_) | Error::Slow(_) | Error::Failing(_) | Error::Undurable(_) => {
                unavailable(why)
            }
            Error::Unexpected(_) | Error::Corrupt { .. } | Error::Aborted | Error::Missed => {
                failed(why.to_string())
            }
        }
    }
}

impl From<HandleError> for TransactionError {
    fn from(why: HandleError) -> Self {
        match why {
            HandleError::Transient(why) => why.into(),
            HandleError::Permanent(why) => Self::Permanent(why),
        }
    }
}

fn unavailable(why: Error) -> TransactionError {
    TransactionError::Retry(Failure::Unavailable(why.to_string()))
}

fn failed(why: String) -> TransactionError {
    TransactionError::Retry(Failure::Failed(why))
}

/// The reason to park an unknown event: it is so old that the record of it may be
/// deleted already. An operator decides and retries it.
fn age_error(event: &Event) -> Option<String> {
    let made = event.create_time.as_ref()?.seconds;
    let age = Timestamp::now().micros() / 1_000_000 - made;
    let most = i64::try_from(MAX_EVENT_AGE.as_secs()).unwrap_or(i64::MAX);
    (age > most).then(|| {
        "it is more than five days old, so the record of an earlier delivery may be deleted; check if it had its \
         effect, and retry it if not"
            .to_owned()
    })
}

/// The reason why this version cannot take the event, if any.
fn validation_error(event: &Event) -> Option<String> {
    if Uuid::try_parse(&event.event_id).is_err() {
        return Some("its event_id is not a UUID".to_owned());
    }
    event.payload.is_none().then(|| "this version does not know its payload".to_owned())
}

#[cfg(test)]
mod tests {
    use mesh_proto::shop::events::v1::{ProductDeleted, event::Payload};

    use super::*;
    use crate::{on_both_databases, testing::TestDatabase};

    /// A subscriber without effects.
    struct Idle;

    #[tonic::async_trait]
    impl Subscriber for Idle {
        async fn handle(&self, _: &mut Transaction, _: &Event) -> Result<(), HandleError> {
            Ok(())
        }
    }

    const HOUR: Duration = Duration::from_hours(1);

    async fn inbox(database: &TestDatabase) -> Inbox {
        let database = Database::open(database.url(), &INBOX).await.unwrap();
        Inbox::new(database, Arc::new(Idle))
    }

    /// Writes so many events, taken so long ago, and parked where a reason is given.
    async fn taken(inbox: &Inbox, name: &str, number: usize, ago: Duration, parked: &str) {
        const ROW: &str = "INSERT INTO inbox (event_id, take_time, parked) VALUES ($1, $2, NULLIF($3, ''))";
        let time = Timestamp::now().micros() - i64::try_from(ago.as_micros()).unwrap();
        let mut open = inbox.database.begin().await.unwrap();
        for n in 0..number {
            let values = [format!("{name}-{n}").into(), time.into(), parked.into()];
            open.execute(ROW, &values).await.unwrap();
        }
        open.commit().await.unwrap();
    }

    async fn left(inbox: &Inbox) -> Vec<String> {
        let rows = inbox.database.rows("SELECT event_id FROM inbox ORDER BY event_id", &[]).await.unwrap();
        rows.iter().map(|row| row.get("event_id").unwrap()).collect()
    }

    async fn records_of_events_taken_long_ago_are_deleted_and_nothing_else(database: TestDatabase) {
        let inbox = inbox(&database).await;
        taken(&inbox, "old", 3, RETENTION + HOUR, "").await;
        taken(&inbox, "young", 2, RETENTION - HOUR, "").await;
        taken(&inbox, "parked", 1, RETENTION * 10, "it is poison").await;
        inbox.delete_older_than(RETENTION).await.unwrap();
        assert_eq!(left(&inbox).await, ["parked-0", "young-0", "young-1"]);
        assert_eq!(inbox.count_parked().await.unwrap(), 1);
    }

    async fn more_rows_than_one_transaction_deletes_are_deleted(database: TestDatabase) {
        let inbox = inbox(&database).await;
        let many = usize::try_from(CLEANUP_BATCH_SIZE).unwrap() + 5;
        taken(&inbox, "old", many, RETENTION + HOUR, "").await;
        taken(&inbox, "young", 1, HOUR, "").await;
        inbox.delete_older_than(RETENTION).await.unwrap();
        assert_eq!(left(&inbox).await, ["young-0"]);
    }

    async fn replicas_that_delete_at_once_do_not_hinder_each_other(database: TestDatabase) {
        let inboxes = [inbox(&database).await, inbox(&database).await];
        taken(&inboxes[0], "old", 2_500, RETENTION + HOUR, "").await;
        let [one, other] = inboxes.each_ref().map(|inbox| inbox.delete_older_than(RETENTION));
        let done = tokio::join!(one, other);
        done.0.unwrap();
        done.1.unwrap();
        // Rows that one has locked and the other skipped are gone after its commit.
        assert_eq!(left(&inboxes[0]).await, [""; 0]);
    }

    fn event(ago: Duration) -> Event {
        let made = Timestamp::now().micros() - i64::try_from(ago.as_micros()).unwrap();
        Event {
            event_id: Uuid::now_v7().to_string(),
            aggregate_id: "one".to_owned(),
            create_time: Some(Timestamp::of_micros(made).into()),
            payload: Some(Payload::ProductDeleted(ProductDeleted::default())),
            ..Event::default()
        }
    }

    async fn an_old_event_is_parked_unless_it_is_recorded(database: TestDatabase) {
        let inbox = inbox(&database).await;
        let [young, old, known] =
            [MAX_EVENT_AGE - HOUR, MAX_EVENT_AGE + HOUR, MAX_EVENT_AGE + HOUR].map(event);
        let mut open = inbox.database.begin().await.unwrap();
        let values = [known.event_id.as_str().into(), Timestamp::now().micros().into()];
        open.execute(RECORD, &values).await.unwrap();
        open.commit().await.unwrap();

        let events = [young, old.clone(), known];
        assert_eq!(inbox.take(&events).await, Progress { taken: 3, failure: None });
        let parked = inbox.parked("it").await.unwrap();
        assert_eq!(parked.len(), 1);
        assert_eq!(parked[0].event.as_ref().unwrap().event_id, old.event_id);
        assert!(parked[0].reason.contains("five days"), "{}", parked[0].reason);
        assert!(matches!(inbox.retry(&old.event_id).await.unwrap(), RetryOutcome::Handled));
        assert_eq!(inbox.count_parked().await.unwrap(), 0);
    }

    on_both_databases!(
        an_old_event_is_parked_unless_it_is_recorded,
        records_of_events_taken_long_ago_are_deleted_and_nothing_else,
        more_rows_than_one_transaction_deletes_are_deleted,
        replicas_that_delete_at_once_do_not_hinder_each_other,
    );
}
