//! The outbox as its relay sees it: what waits for one subscriber.

use std::time::Instant;

use mesh_proto::shop::events::v1::Backlog;

use super::relay::RelaySettings;
use crate::{
    database::{Database, Error, Row, Sql, Transaction, Value},
    lease::{Lease, Unfenced},
    timestamp::Timestamp,
};

/// What is due and has nothing before it that is held back, in order.
const DUE: &str = "SELECT position, event_id, aggregate_id, attempts, event FROM outbox o \
     WHERE subscriber = $1 AND parked IS NULL AND due_time <= $2 AND NOT EXISTS \
     (SELECT 1 FROM outbox h WHERE h.subscriber = $1 AND h.aggregate_id = o.aggregate_id \
     AND h.parked IS NULL AND h.due_time > 0 AND h.due_time > $2 AND h.position < o.position) \
     ORDER BY position LIMIT $3";

const DELETE: Sql = Sql::each(
    "DELETE FROM outbox WHERE position IN (SELECT value FROM json_each($1))",
    "DELETE FROM outbox WHERE position IN (SELECT jsonb_array_elements_text($1::jsonb)::bigint)",
);

const HOLD: &str =
    "UPDATE outbox SET attempts = attempts + 1, due_time = $2 WHERE position = $1 AND parked IS NULL";

const PARK: &str =
    "UPDATE outbox SET attempts = attempts + 1, parked = $2 WHERE position = $1 AND parked IS NULL";

/// A count stops there: who has so many waiting needs no more digits.
const WAITING: &str = "SELECT count(*) AS waiting, min(create_time) AS oldest FROM \
     (SELECT create_time FROM outbox WHERE subscriber = $1 AND parked IS NULL ORDER BY position LIMIT 100000) o";

const BACKLOGS: &str = "SELECT subscriber, \
     sum(CASE WHEN parked IS NULL THEN 1 ELSE 0 END) AS waiting, \
     sum(CASE WHEN parked IS NULL THEN 0 ELSE 1 END) AS parked, \
     min(CASE WHEN parked IS NULL THEN create_time END) AS oldest FROM outbox GROUP BY subscriber";

/// The longest reason that is kept.
const REASON_MAX: usize = 500;

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
    subscriber: String,
}

impl Queue {
    pub(super) fn new(database: Database, subscriber: &str) -> Self {
        Self { database, subscriber: subscriber.to_owned() }
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// Up to `most` events to deliver, in order.
    pub(super) async fn due(&self, most: usize) -> Result<Vec<Waiting>, Error> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let values = [self.subscriber.as_str().into(), Timestamp::now().micros().into(), most.into()];
        self.database.rows(DUE, &values).await?.iter().map(waiting).collect()
    }

    /// In one transaction of the lease's holder: deletes what was taken, and
    /// writes what becomes of one that was not.
    pub(super) async fn settle(
        &self,
        lease: &mut Lease,
        settings: &RelaySettings,
        taken: &[i64],
        fate: Option<(i64, Fate)>,
    ) -> Result<(), Unfenced> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await?;
            let done = match lease.fence(&mut open, settings.lease).await {
                Ok(()) => settle(&mut open, taken, fate.as_ref()).await.map_err(Unfenced::from),
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
        let row = self.database.row(WAITING, &[self.subscriber.as_str().into()]).await?;
        let Some(row) = row else { return Ok((0, None)) };
        Ok((row.get("waiting")?, row.get("oldest")?))
    }
}

async fn settle(open: &mut Transaction, taken: &[i64], fate: Option<&(i64, Fate)>) -> Result<(), Error> {
    if !taken.is_empty() {
        open.execute(DELETE, &[positions(taken)]).await?;
    }
    match fate {
        None => {}
        Some((position, Fate::Held(due))) => {
            open.execute(HOLD, &[(*position).into(), due.micros().into()]).await?;
        }
        Some((position, Fate::Parked(why))) => {
            open.execute(PARK, &[(*position).into(), reason(why).into()]).await?;
        }
    }
    Ok(())
}

/// What waits for each subscriber that something waits or is parked for.
pub(super) async fn backlogs(database: &Database) -> Result<Vec<Backlog>, Error> {
    let backlog = |row: &Row| {
        let oldest: Option<i64> = row.get("oldest")?;
        Ok(Backlog {
            subscriber: row.get("subscriber")?,
            waiting: row.get("waiting")?,
            parked: row.get("parked")?,
            oldest_time: oldest.map(|micros| Timestamp::of_micros(micros).into()),
        })
    };
    database.rows(BACKLOGS, &[]).await?.iter().map(backlog).collect()
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
