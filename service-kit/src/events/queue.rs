//! The queue of events that wait for one subscriber.

use std::time::Instant;

use mesh_proto::shop::events::v1::{Backlog, Event, ParkedEvent};
use prost::Message;

use super::relay::RelaySettings;
use crate::{
    changes::Subscription,
    database::{Database, Error, Row, Sql, Transaction, Value},
    lease::{FenceError, Lease},
    timestamp::Timestamp,
};

/// The statements on a table of waiting events.
#[derive(Debug)]
pub(super) struct EventTable {
    /// Selects due events in order, except those behind one of their aggregate
    /// that is not due yet.
    due: &'static str,
    delete: Sql,
    postpone: &'static str,
    park: &'static str,
    waiting: &'static str,
    backlogs: &'static str,
    parked: &'static str,
    unpark: &'static str,
    /// The key of its changes, for subscriptions.
    pub(super) changed: &'static str,
}

macro_rules! event_table {
    ($table:literal) => {
        EventTable {
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
            postpone: concat!(
                "UPDATE ", $table, " SET attempts = attempts + 1, due_time = $2 \
                 WHERE position = $1 AND parked IS NULL"
            ),
            park: concat!(
                "UPDATE ", $table, " SET attempts = attempts + 1, parked = $2 \
                 WHERE position = $1 AND parked IS NULL"
            ),
            // The limit bounds the time of the count.
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

/// The events that this service sends.
pub(super) const OUTBOX_TABLE: EventTable = event_table!("outbox");
/// The events that this service has received from a stream.
pub(super) const ARRIVALS_TABLE: EventTable = event_table!("arrivals");

/// The maximum length of a stored reason, in characters.
const MAX_REASON_LENGTH: usize = 500;

/// Decodes the first events: up to `max_bytes`, but at least one. Fails when the
/// first cannot be decoded.
pub(super) fn decode_batch(waiting: &[PendingEvent], max_bytes: usize) -> Result<Vec<Event>, String> {
    let mut events = Vec::with_capacity(waiting.len());
    let mut bytes = 0;
    for one in waiting {
        bytes += one.event.len();
        if bytes > max_bytes && !events.is_empty() {
            break;
        }
        match Event::decode(one.event.as_slice()) {
            Ok(event) => events.push(event),
            // The events before it are delivered first.
            Err(_) if !events.is_empty() => break,
            Err(why) => return Err(why.to_string()),
        }
    }
    Ok(events)
}

/// An event that waits.
#[derive(Clone, Debug)]
pub(super) struct PendingEvent {
    pub(super) position: i64,
    pub(super) id: String,
    pub(super) aggregate: String,
    pub(super) attempts: i64,
    pub(super) event: Vec<u8>,
}

/// The disposition of an event that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    RetryAt(Timestamp),
    /// Park it for this reason.
    Park(String),
}

/// The queue of one subscriber.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    database: Database,
    table: &'static EventTable,
    subscriber: String,
}

impl Queue {
    pub(super) fn new(database: Database, table: &'static EventTable, subscriber: &str) -> Self {
        Self { database, table, subscriber: subscriber.to_owned() }
    }

    /// Subscribes to new rows.
    pub(super) fn changes(&self) -> Subscription {
        self.database.changes().subscribe(self.table.changed)
    }

    pub(super) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// Reads up to `limit` events to deliver, in order.
    pub(super) async fn due(&self, limit: usize) -> Result<Vec<PendingEvent>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [self.subscriber.as_str().into(), Timestamp::now().micros().into(), limit.into()];
        self.database.rows(self.table.due, &values).await?.iter().map(pending).collect()
    }

    /// Deletes the events that were taken, and writes the dispositions of those
    /// that failed, in one transaction that is fenced by the lease.
    pub(super) async fn settle(
        &self,
        lease: &mut Lease,
        settings: &RelaySettings,
        taken: &[i64],
        dispositions: &[(i64, Disposition)],
    ) -> Result<(), FenceError> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await?;
            let done = match lease.fence(&mut open, settings.lease).await {
                Ok(()) => self.table.settle(&mut open, taken, dispositions).await.map_err(FenceError::from),
                lost => lost,
            };
            if let Some(done) = unit.end(open, done).await {
                done?;
                lease.record_renewal(since, settings.lease);
                return Ok(());
            }
        }
    }

    /// Counts the waiting events, up to 100,000, and finds the time of the oldest.
    pub(super) async fn backlog(&self) -> Result<(i64, Option<i64>), Error> {
        let row = self.database.row(self.table.waiting, &[self.subscriber.as_str().into()]).await?;
        let Some(row) = row else { return Ok((0, None)) };
        Ok((row.get("waiting")?, row.get("oldest")?))
    }
}

impl EventTable {
    async fn settle(
        &self,
        open: &mut Transaction,
        taken: &[i64],
        dispositions: &[(i64, Disposition)],
    ) -> Result<(), Error> {
        if !taken.is_empty() {
            open.execute(self.delete, &[positions(taken)]).await?;
        }
        for (position, disposition) in dispositions {
            match disposition {
                Disposition::RetryAt(due) => {
                    open.execute(self.postpone, &[(*position).into(), due.micros().into()]).await?
                }
                Disposition::Park(why) => {
                    open.execute(self.park, &[(*position).into(), reason(why).into()]).await?
                }
            };
        }
        Ok(())
    }

    /// The backlog of each subscriber with waiting or parked events.
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

    /// Makes a parked event wait again. Returns false when it was not parked.
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
    // Retries name it by the row's id.
    event.event_id = row.get("event_id")?;
    let (subscriber, reason) = (row.get("subscriber")?, row.get("parked")?);
    Ok(ParkedEvent { event: Some(event), subscriber, reason, attempts: row.get("attempts")? })
}

/// Shortens a reason for the database, and removes NUL, which PostgreSQL cannot
/// store.
pub(super) fn reason(why: &str) -> String {
    why.chars().filter(|c| *c != '\0').take(MAX_REASON_LENGTH).collect()
}

fn positions(taken: &[i64]) -> Value {
    let numbers: Vec<String> = taken.iter().map(i64::to_string).collect();
    format!("[{}]", numbers.join(",")).into()
}

fn pending(row: &Row) -> Result<PendingEvent, Error> {
    Ok(PendingEvent {
        position: row.get("position")?,
        id: row.get("event_id")?,
        aggregate: row.get("aggregate_id")?,
        attempts: row.get("attempts")?,
        event: row.get("event")?,
    })
}
