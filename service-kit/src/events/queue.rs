//! The outbox as its relay sees it: what waits for one subscriber.

use std::time::Instant;

use mesh_proto::shop::events::v1::{Backlog, Event, ParkedEvent};
use prost::Message;

use super::relay::RelaySettings;
use crate::{
    changes::Subscription,
    database::{Database, Error, Row, Sql, Transaction, Value},
    lease::{Lease, Unfenced},
    timestamp::Timestamp,
};

/// A table of events that wait, and what is done with it.
#[derive(Debug)]
pub(super) struct Table {
    /// What is due and has nothing before it that is held back, in order.
    due: &'static str,
    delete: Sql,
    hold: &'static str,
    park: &'static str,
    waiting: &'static str,
    backlogs: &'static str,
    parked: &'static str,
    unpark: &'static str,
    /// Who waits for its rows subscribes to this.
    pub(super) changed: &'static str,
}

macro_rules! table {
    ($table:literal) => {
        Table {
            due: concat!(
                "SELECT position, event_id, aggregate_id, attempts, event FROM ", $table, " o \
                 WHERE subscriber = $1 AND parked IS NULL AND due_time <= $2 AND NOT EXISTS \
                 (SELECT 1 FROM ", $table, " h WHERE h.subscriber = $1 AND h.aggregate_id = o.aggregate_id \
                 AND h.parked IS NULL AND h.due_time > 0 AND h.due_time > $2 AND h.position < o.position) \
                 ORDER BY position LIMIT $3"
            ),
            delete: Sql::each(
                concat!("DELETE FROM ", $table, " WHERE position IN (SELECT value FROM json_each($1))"),
                concat!(
                    "DELETE FROM ", $table,
                    " WHERE position IN (SELECT jsonb_array_elements_text($1::jsonb)::bigint)"
                ),
            ),
            hold: concat!(
                "UPDATE ", $table, " SET attempts = attempts + 1, due_time = $2 \
                 WHERE position = $1 AND parked IS NULL"
            ),
            park: concat!(
                "UPDATE ", $table, " SET attempts = attempts + 1, parked = $2 \
                 WHERE position = $1 AND parked IS NULL"
            ),
            // A count stops there: who has so many waiting needs no more digits.
            waiting: concat!(
                "SELECT count(*) AS waiting, min(create_time) AS oldest FROM (SELECT create_time FROM ", $table,
                " WHERE subscriber = $1 AND parked IS NULL ORDER BY position LIMIT 100000) o"
            ),
            backlogs: concat!(
                "SELECT subscriber, CAST(sum(CASE WHEN parked IS NULL THEN 1 ELSE 0 END) AS BIGINT) AS waiting, \
                 CAST(sum(CASE WHEN parked IS NULL THEN 0 ELSE 1 END) AS BIGINT) AS parked, \
                 min(CASE WHEN parked IS NULL THEN create_time END) AS oldest FROM ", $table,
                " GROUP BY subscriber"
            ),
            parked: concat!(
                "SELECT subscriber, event_id, event, parked, attempts FROM ", $table,
                " WHERE parked IS NOT NULL ORDER BY position LIMIT 1000"
            ),
            unpark: concat!(
                "UPDATE ", $table, " SET parked = NULL, attempts = 0, due_time = 0 \
                 WHERE event_id = $1 AND subscriber = $2 AND parked IS NOT NULL"
            ),
            changed: $table,
        }
    };
}

/// Events that this service sends.
pub(super) const SENT: Table = table!("outbox");
/// Events that came to this service by a stream.
pub(super) const ARRIVED: Table = table!("arrivals");

/// The longest reason that is kept.
const REASON_MAX: usize = 500;

/// The first events, decoded: up to so many bytes, but at least one. When the
/// first is none, why.
pub(super) fn decoded(waiting: &[Waiting], bytes_max: usize) -> Result<Vec<Event>, String> {
    let mut events = Vec::with_capacity(waiting.len());
    let mut bytes = 0;
    for one in waiting {
        bytes += one.event.len();
        if bytes > bytes_max && !events.is_empty() {
            break;
        }
        match Event::decode(one.event.as_slice()) {
            Ok(event) => events.push(event),
            // Those before it go first.
            Err(_) if !events.is_empty() => break,
            Err(why) => return Err(why.to_string()),
        }
    }
    Ok(events)
}

/// An event that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) position: i64,
    pub(super) id: String,
    pub(super) aggregate: String,
    pub(super) attempts: i64,
    pub(super) event: Vec<u8>,
}

/// What becomes of an event that was not taken and is to blame for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Tried again, not before then.
    Held(Timestamp),
    /// Set aside for this reason.
    Parked(String),
}

/// What waits for one subscriber.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    database: Database,
    table: &'static Table,
    subscriber: String,
}

impl Queue {
    pub(super) fn new(database: Database, table: &'static Table, subscriber: &str) -> Self {
        Self { database, table, subscriber: subscriber.to_owned() }
    }

    /// Hears of rows that are written.
    pub(super) fn changes(&self) -> Subscription {
        self.database.changes().subscribe(self.table.changed)
    }

    pub(super) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// Up to `most` events to deliver, in order.
    pub(super) async fn due(&self, most: usize) -> Result<Vec<Waiting>, Error> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let values = [self.subscriber.as_str().into(), Timestamp::now().micros().into(), most.into()];
        self.database.rows(self.table.due, &values).await?.iter().map(waiting).collect()
    }

    /// In one transaction of the lease's holder: deletes what was taken, and
    /// writes what becomes of those that were not.
    pub(super) async fn settle(
        &self,
        lease: &mut Lease,
        settings: &RelaySettings,
        taken: &[i64],
        fates: &[(i64, Fate)],
    ) -> Result<(), Unfenced> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await?;
            let done = match lease.fence(&mut open, settings.lease).await {
                Ok(()) => self.table.settle(&mut open, taken, fates).await.map_err(Unfenced::from),
                lost => lost,
            };
            if let Some(done) = unit.end(open, done).await {
                done?;
                lease.renewed(since, settings.lease);
                return Ok(());
            }
        }
    }

    /// How many wait, up to 100,000, and since when the oldest does.
    pub(super) async fn waiting(&self) -> Result<(i64, Option<i64>), Error> {
        let row = self.database.row(self.table.waiting, &[self.subscriber.as_str().into()]).await?;
        let Some(row) = row else { return Ok((0, None)) };
        Ok((row.get("waiting")?, row.get("oldest")?))
    }
}

impl Table {
    async fn settle(
        &self,
        open: &mut Transaction,
        taken: &[i64],
        fates: &[(i64, Fate)],
    ) -> Result<(), Error> {
        if !taken.is_empty() {
            open.execute(self.delete, &[positions(taken)]).await?;
        }
        for (position, fate) in fates {
            match fate {
                Fate::Held(due) => {
                    open.execute(self.hold, &[(*position).into(), due.micros().into()]).await?
                }
                Fate::Parked(why) => {
                    open.execute(self.park, &[(*position).into(), reason(why).into()]).await?
                }
            };
        }
        Ok(())
    }

    /// What waits for each subscriber that something waits or is parked for.
    pub(super) async fn backlogs(&self, database: &Database) -> Result<Vec<Backlog>, Error> {
        let backlog = |row: &Row| {
            let oldest: Option<i64> = row.get("oldest")?;
            Ok(Backlog {
                subscriber: row.get("subscriber")?,
                waiting: row.get("waiting")?,
                parked: row.get("parked")?,
                oldest_time: oldest.map(|micros| Timestamp::of_micros(micros).into()),
            })
        };
        database.rows(self.backlogs, &[]).await?.iter().map(backlog).collect()
    }

    /// The parked events, oldest first, up to 1,000.
    pub(super) async fn parked(&self, database: &Database) -> Result<Vec<ParkedEvent>, Error> {
        database.rows(self.parked, &[]).await?.iter().map(parked).collect()
    }

    /// Lets a parked event wait again; whether it was parked.
    pub(super) async fn unpark(
        &self,
        database: &Database,
        id: &str,
        subscriber: &str,
    ) -> Result<bool, Error> {
        let mut unit = database.unit();
        loop {
            let mut open = unit.begin().await?;
            let mut done = open.execute(self.unpark, &[id.into(), subscriber.into()]).await;
            if matches!(done, Ok(1..)) {
                done = open.changed(self.changed).await.map(|()| 1);
            }
            if let Some(done) = unit.end(open, done).await {
                return Ok(done? > 0);
            }
        }
    }
}

fn parked(row: &Row) -> Result<ParkedEvent, Error> {
    let bytes: Vec<u8> = row.get("event")?;
    let mut event = Event::decode(bytes.as_slice()).unwrap_or_default();
    // The name that it is retried by.
    event.event_id = row.get("event_id")?;
    let (subscriber, reason) = (row.get("subscriber")?, row.get("parked")?);
    Ok(ParkedEvent { event: Some(event), subscriber, reason, attempts: row.get("attempts")? })
}

/// A reason as it is kept: not without bound, and without what PostgreSQL keeps
/// in no text.
pub(super) fn reason(why: &str) -> String {
    why.chars().filter(|c| *c != '\0').take(REASON_MAX).collect()
}

fn positions(taken: &[i64]) -> Value {
    let numbers: Vec<String> = taken.iter().map(i64::to_string).collect();
    format!("[{}]", numbers.join(",")).into()
}

fn waiting(row: &Row) -> Result<Waiting, Error> {
    Ok(Waiting {
        position: row.get("position")?,
        id: row.get("event_id")?,
        aggregate: row.get("aggregate_id")?,
        attempts: row.get("attempts")?,
        event: row.get("event")?,
    })
}
