//! The events that a service has taken, and those that it could not.

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

use super::{Subscriber, Untaken, queue::reason, tally::Tally};
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

/// How many events share a transaction when all goes well.
const TOGETHER: usize = 32;
/// The longest that the effects of one transaction may take.
const TAKE_LIMIT: Duration = Duration::from_secs(2);
/// After so long the answer says what was taken until then; its sender waits
/// 3 s.
pub(super) const ANSWER_AFTER: Duration = Duration::from_millis(800);
/// How long an event is remembered.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// The age of an event from which on it may have been taken and forgotten: it is
/// set aside then, unless it is remembered. Two days less than [`KEPT`], which
/// counts by another machine's clock.
const MAX_AGE: Duration = Duration::from_hours(5 * 24);
/// How often what is older is forgotten.
const CLEANING: Duration = Duration::from_mins(10);
/// How much is forgotten in one transaction.
const CLEANED: u64 = 1_000;

const REMEMBER: &str =
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

const HOW_MANY_PARKED: &str = "SELECT count(*) AS parked FROM inbox WHERE parked IS NOT NULL";

const FORGET: Sql = Sql::each(
    "DELETE FROM inbox WHERE event_id IN (SELECT event_id FROM inbox \
     WHERE parked IS NULL AND take_time < $1 ORDER BY take_time LIMIT $2)",
    // Replicas that clean at once leave each other's rows alone.
    "DELETE FROM inbox WHERE event_id IN (SELECT event_id FROM inbox \
     WHERE parked IS NULL AND take_time < $1 ORDER BY take_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
);

/// Takes events, each once. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    database: Database,
    subscriber: Arc<dyn Subscriber>,
    tally: Arc<Tally>,
}

/// How far it came with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// So many of the first were taken, now or before, or parked.
    pub(super) taken: usize,
    /// Why not the next; `None` also when there was no time for it.
    pub(super) stop: Option<Stop>,
}

/// Why an event was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The database is away, for any event.
    Away(String),
    /// The event is to blame, or what it is about; it may succeed later.
    Again(String),
    /// It is no event that this version understands.
    Malformed(String),
}

/// What was done for an event that could be retried.
pub(super) enum Retried {
    Taken,
    NotParked,
    Never(String),
}

impl Inbox {
    pub(super) fn new(database: Database, subscriber: Arc<dyn Subscriber>) -> Self {
        Self { database, subscriber, tally: Arc::default() }
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Takes events in their order until one cannot be taken.
    ///
    /// # Cancel safety
    /// Those until then may have been taken.
    pub(super) async fn take(&self, events: &[Event]) -> Progress {
        let began = Instant::now();
        let mut taken = 0;
        for chunk in events.chunks(TOGETHER) {
            if chunk.len() > 1 && self.together(chunk).await {
                taken += chunk.len();
            } else {
                for event in chunk {
                    match self.one(event).await {
                        Ok(()) => taken += 1,
                        Err(stop) => return Progress { taken, stop: Some(stop) },
                    }
                    if began.elapsed() > ANSWER_AFTER {
                        return Progress { taken, stop: None };
                    }
                }
            }
            if began.elapsed() > ANSWER_AFTER {
                break;
            }
        }
        Progress { taken, stop: None }
    }

    /// Sets aside bytes that are no event; `id` names them.
    pub(super) async fn park(&self, id: &str, bytes: Vec<u8>, why: &str) -> Result<(), Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let values =
                [id.into(), Timestamp::now().micros().into(), reason(why).into(), bytes.clone().into()];
            let done = open.execute(PARK, &values).await;
            if let Some(done) = unit.end(open, done).await {
                if done? > 0 {
                    Tally::add(&self.tally.parked, 1);
                    warn!(id, "event {id} is set aside: {why}");
                }
                return Ok(());
            }
        }
    }

    /// Takes all in one transaction, if all can be taken.
    async fn together(&self, events: &[Event]) -> bool {
        if events.iter().any(|event| fault(event).is_some()) {
            return false;
        }
        matches!(self.unit(events).await, Ok(()))
    }

    async fn one(&self, event: &Event) -> Result<(), Stop> {
        if let Some(why) = fault(event) {
            return Err(Stop::Malformed(why));
        }
        let why = match self.unit(std::slice::from_ref(event)).await {
            Ok(()) => return Ok(()),
            Err(Failed::Stop(stop)) => return Err(stop),
            Err(Failed::Never(why)) => why,
        };
        let parked = self.park(&event.event_id, event.encode_to_vec(), &why).await;
        parked.map_err(|why| Stop::Away(why.to_string()))
    }

    /// Remembers events and has their effects, in one transaction.
    async fn unit(&self, events: &[Event]) -> Result<(), Failed> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await.map_err(away)?;
            let effects = AssertUnwindSafe(self.effects(&mut open, events)).catch_unwind();
            // What was cut off or panicked is dropped, which undoes it.
            let done = match timeout(TAKE_LIMIT, effects).await {
                Ok(Ok(done)) => done,
                Ok(Err(_)) => return Err(again("its subscriber panicked".to_owned())),
                Err(_) => return Err(again(format!("it was not taken within {TAKE_LIMIT:?}"))),
            };
            if matches!(done, Ok(0)) {
                open.set_rollback_only();
            }
            if let Some(done) = unit.end(open, done).await {
                let new = done?;
                Tally::add(&self.tally.delivered, new);
                Tally::add(&self.tally.duplicates, events.len() - new);
                return Ok(());
            }
        }
    }

    /// How many of the events were new.
    async fn effects(&self, open: &mut Transaction, events: &[Event]) -> Result<usize, Failed> {
        let mut new = 0;
        for event in events {
            let values = [event.event_id.as_str().into(), Timestamp::now().micros().into()];
            // Waits for another transaction that is taking it.
            if open.execute(REMEMBER, &values).await.map_err(away)? == 0 {
                continue;
            }
            if let Some(why) = is_too_old(event) {
                return Err(Failed::Never(why));
            }
            self.subscriber.take(open, event).await?;
            new += 1;
        }
        Ok(new)
    }

    /// Takes a parked event after all.
    pub(super) async fn retry(&self, id: &str) -> Result<Retried, Error> {
        let Some(row) = self.database.row(PARKED_ONE, &[id.into()]).await? else {
            return Ok(Retried::NotParked);
        };
        let bytes: Vec<u8> = row.get("event")?;
        let why = match Event::decode(bytes.as_slice()) {
            Err(why) => why.to_string(),
            Ok(event) => match fault(&event) {
                Some(why) => why,
                None => match self.take_parked(&event).await {
                    Ok(true) => return Ok(Retried::Taken),
                    Ok(false) => return Ok(Retried::NotParked),
                    Err(Untaken::Again(why)) => return Err(why),
                    Err(Untaken::Never(why)) => why,
                },
            },
        };
        let mut open = self.database.begin().await?;
        open.execute(PARK_AGAIN, &[id.into(), reason(&why).into()]).await?;
        open.commit().await?;
        Ok(Retried::Never(why))
    }

    async fn take_parked(&self, event: &Event) -> Result<bool, Untaken> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let values = [event.event_id.as_str().into(), Timestamp::now().micros().into()];
            let done = match open.execute(UNPARK, &values).await {
                Ok(0) => Ok(false),
                Ok(_) => self.subscriber.take(&mut open, event).await.map(|()| true),
                Err(why) => Err(why.into()),
            };
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// The events that are parked here, oldest first, up to 1,000.
    pub(super) async fn parked(&self, name: &str) -> Result<Vec<ParkedEvent>, Error> {
        let parked = |row: &Row| {
            let bytes: Vec<u8> = row.get("event")?;
            let mut event = Event::decode(bytes.as_slice()).unwrap_or_default();
            // The name that it is retried by.
            event.event_id = row.get("event_id")?;
            let (reason, attempts) = (row.get("parked")?, row.get("attempts")?);
            Ok(ParkedEvent { event: Some(event), subscriber: name.to_owned(), reason, attempts })
        };
        self.database.rows(PARKED, &[]).await?.iter().map(parked).collect()
    }

    /// How many are parked here.
    pub(super) async fn how_many_parked(&self) -> Result<i64, Error> {
        let row = self.database.row(HOW_MANY_PARKED, &[]).await?;
        row.map_or(Ok(0), |row| row.get("parked"))
    }

    /// Forgets what was taken long ago, now and then; never ends.
    pub(super) async fn clean(self) {
        loop {
            // Replicas that started together clean apart.
            sleep(CLEANING.mul_f64(0.5 + fastrand::f64())).await;
            if let Err(why) = self.forget(KEPT).await {
                error!(error = %why, "old events could not be forgotten, trying later: {why}");
            }
        }
    }

    /// Forgets what was taken longer ago than `kept`, a part at a time.
    pub(super) async fn forget(&self, kept: Duration) -> Result<(), Error> {
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::now().micros().saturating_sub(kept);
        let most = i64::try_from(CLEANED).unwrap_or(i64::MAX);
        loop {
            let mut open = self.database.begin().await?;
            let gone = open.execute(FORGET, &[before.into(), most.into()]).await?;
            open.commit().await?;
            if gone < CLEANED {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let taken = self.tally.delivered.load(Relaxed);
        f.debug_struct("Inbox").field("taken", &taken).finish_non_exhaustive()
    }
}

/// Why a transaction of events was undone.
enum Failed {
    Stop(Stop),
    Never(String),
}

impl From<Error> for Failed {
    fn from(why: Error) -> Self {
        match why {
            Error::Unavailable(_) | Error::Slow(_) | Error::Failing(_) | Error::Undurable(_) => away(why),
            Error::Unexpected(_) | Error::Corrupt { .. } | Error::Aborted | Error::Missed => {
                again(why.to_string())
            }
        }
    }
}

impl From<Untaken> for Failed {
    fn from(why: Untaken) -> Self {
        match why {
            Untaken::Again(why) => why.into(),
            Untaken::Never(why) => Self::Never(why),
        }
    }
}

fn away(why: Error) -> Failed {
    Failed::Stop(Stop::Away(why.to_string()))
}

fn again(why: String) -> Failed {
    Failed::Stop(Stop::Again(why))
}

/// Why an event that is not remembered is not taken either: it comes so late
/// that it may have been taken and forgotten. Whoever knows better retries it.
fn is_too_old(event: &Event) -> Option<String> {
    let made = event.create_time.as_ref()?.seconds;
    let age = Timestamp::now().micros() / 1_000_000 - made;
    let most = i64::try_from(MAX_AGE.as_secs()).unwrap_or(i64::MAX);
    (age > most).then(|| {
        "it is more than five days old, and whether it was taken before may be forgotten; see whether its effect \
         is there, and retry it if not"
            .to_owned()
    })
}

/// What keeps anybody from taking the event, if anything does.
pub(super) fn fault(event: &Event) -> Option<String> {
    if Uuid::try_parse(&event.event_id).is_err() {
        return Some("its event_id is not a UUID".to_owned());
    }
    event.payload.is_none().then(|| "its payload is none that this version knows".to_owned())
}

#[cfg(test)]
mod tests {
    use mesh_proto::shop::events::v1::{ProductDeleted, event::Payload};

    use super::*;
    use crate::{on_both_databases, testing::TestDatabase};

    /// Takes everything, and does nothing.
    struct Idle;

    #[tonic::async_trait]
    impl Subscriber for Idle {
        async fn take(&self, _: &mut Transaction, _: &Event) -> Result<(), Untaken> {
            Ok(())
        }
    }

    const HOUR: Duration = Duration::from_hours(1);

    async fn inbox(database: &TestDatabase) -> Inbox {
        let database = Database::open(database.url(), &INBOX).await.unwrap();
        Inbox::new(database, Arc::new(Idle))
    }

    /// So many events, taken so long ago; set aside where a reason is given.
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

    async fn what_was_taken_long_ago_is_forgotten_and_nothing_else(database: TestDatabase) {
        let inbox = inbox(&database).await;
        taken(&inbox, "old", 3, KEPT + HOUR, "").await;
        taken(&inbox, "young", 2, KEPT - HOUR, "").await;
        taken(&inbox, "parked", 1, KEPT * 10, "it is poison").await;
        inbox.forget(KEPT).await.unwrap();
        assert_eq!(left(&inbox).await, ["parked-0", "young-0", "young-1"]);
        assert_eq!(inbox.how_many_parked().await.unwrap(), 1);
    }

    async fn more_than_a_transaction_forgets_is_forgotten_all_the_same(database: TestDatabase) {
        let inbox = inbox(&database).await;
        let many = usize::try_from(CLEANED).unwrap() + 5;
        taken(&inbox, "old", many, KEPT + HOUR, "").await;
        taken(&inbox, "young", 1, HOUR, "").await;
        inbox.forget(KEPT).await.unwrap();
        assert_eq!(left(&inbox).await, ["young-0"]);
    }

    async fn replicas_that_clean_at_once_do_not_hinder_each_other(database: TestDatabase) {
        let inboxes = [inbox(&database).await, inbox(&database).await];
        taken(&inboxes[0], "old", 2_500, KEPT + HOUR, "").await;
        let [one, other] = inboxes.each_ref().map(|inbox| inbox.forget(KEPT));
        let done = tokio::join!(one, other);
        done.0.unwrap();
        done.1.unwrap();
        // What one had locked when the other looked is gone with its commit.
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

    async fn an_event_that_may_be_forgotten_is_set_aside_and_one_that_is_known_is_not(
        database: TestDatabase,
    ) {
        let inbox = inbox(&database).await;
        let [young, old, known] = [MAX_AGE - HOUR, MAX_AGE + HOUR, MAX_AGE + HOUR].map(event);
        let mut open = inbox.database.begin().await.unwrap();
        let values = [known.event_id.as_str().into(), Timestamp::now().micros().into()];
        open.execute(REMEMBER, &values).await.unwrap();
        open.commit().await.unwrap();

        let events = [young, old.clone(), known];
        assert_eq!(inbox.take(&events).await, Progress { taken: 3, stop: None });
        let parked = inbox.parked("it").await.unwrap();
        assert_eq!(parked.len(), 1);
        assert_eq!(parked[0].event.as_ref().unwrap().event_id, old.event_id);
        assert!(parked[0].reason.contains("five days"), "{}", parked[0].reason);
        assert!(matches!(inbox.retry(&old.event_id).await.unwrap(), Retried::Taken));
        assert_eq!(inbox.how_many_parked().await.unwrap(), 0);
    }

    on_both_databases!(
        an_event_that_may_be_forgotten_is_set_aside_and_one_that_is_known_is_not,
        what_was_taken_long_ago_is_forgotten_and_nothing_else,
        more_than_a_transaction_forgets_is_forgotten_all_the_same,
        replicas_that_clean_at_once_do_not_hinder_each_other,
    );
}
