//! Events, which a service publishes to its subscribers.
//!
//! - [`Outbox::append`] writes an event in the transaction of its change: there
//!   is no change without its event, and no event without its change.
//! - A relay delivers events to each subscriber, at least once, those of one
//!   aggregate in order.
//! - A [`Subscriber`] handles an event in the transaction that records it: each
//!   event has its effect once.
//! - [`Events`] adds to a service what sending and receiving events needs.
//!
//! An event is one row per subscriber, which is deleted after its delivery, and
//! not a row that the subscribers' cursors pass: PostgreSQL assigns positions
//! when rows are written and not when they are committed, so that a cursor that
//! has passed 8 misses a 7 that is committed later. Every row that exists is to
//! be delivered. Parked events and the backlog of a subscriber are rows, too.
//!
//! Events of one aggregate are delivered in the order of their positions, which
//! is that of their changes: their writer holds the aggregate's row from before
//! it writes the event until its commit.
//!
//! Any replica reports the lag of subscribers, from its database:
//! `EventLogService/GetBacklog` returns how many events wait for each and since
//! when, and `ListParkedEvents` which events were parked and why. Over NATS the
//! sender's backlog ends at the stream (its subscriber is `nats`); events that a
//! service has stored from the stream, and not handled yet, are in that service's
//! own backlog. The metrics `shop.events.*` report the same where the mesh has a
//! meter ([`crate::metrics`]), as in every service with `CONSORT_ADMIN`: there
//! `/metrics` shows `shop_events_waiting` and `shop_events_oldest_age_seconds` by
//! subscriber, at most two seconds old while something waits.
//!
//! ```text
//! curl http://127.0.0.1:9610/metrics
//! mesh call shop.events.v1.EventLogService/GetBacklog --service order-service
//! ```

use mesh_proto::shop::events::v1::{Event, event::Payload};
use prost::Message;

use crate::{
    database::{Error, Migration, Migrations, Transaction, Value},
    service::ServiceContext,
    timestamp::Timestamp,
};

mod builder;
mod counters;
mod event_log;
mod inbox;
mod nats;
mod queue;
mod relay;
mod sink;
mod sink_transport;

pub use builder::Events;
pub use inbox::INBOX;
pub use relay::{RelaySettings, relay};
pub use sink::Sink;

/// The table of an outbox, a step of the schema of every service that has one;
/// its relay needs [`LEASES`](crate::lease::LEASES) besides.
pub const OUTBOX: Migrations = Migrations {
    sqlite: &[Migration { name: "outbox", sql: include_str!("../migrations/sqlite/outbox.sql") }],
    postgres: &[Migration { name: "outbox", sql: include_str!("../migrations/postgres/outbox.sql") }],
};

const APPEND: &str = "INSERT INTO outbox (subscriber, event_id, aggregate_id, sequence, event, create_time) \
     VALUES ($1, $2, $3, $4, $5, $6)";

/// The events that a service sends. Cheap to clone.
#[derive(Clone, Copy, Debug)]
pub struct Outbox {
    source: &'static str,
    subscribers: &'static [&'static str],
    via_nats: bool,
}

impl Outbox {
    /// The events of the service `source` for these subscribers: over NATS where
    /// `context` has it, else over the mesh.
    #[must_use]
    pub fn of(context: &ServiceContext, source: &'static str, subscribers: &'static [&'static str]) -> Self {
        Self { via_nats: context.nats.is_some(), ..Self::new(source, subscribers) }
    }

    /// The events of the service `source` for these subscribers, over the mesh.
    #[must_use]
    pub const fn new(source: &'static str, subscribers: &'static [&'static str]) -> Self {
        Self { source, subscribers, via_nats: false }
    }

    /// The values of `subscriber` in its rows.
    fn recipients(&self) -> &'static [&'static str] {
        if self.via_nats { &[nats::NATS_SUBSCRIBER] } else { self.subscribers }
    }

    /// Appends the event of a change, in its transaction. `sequence` is the new
    /// version of the aggregate. The transaction must hold the lock of the
    /// aggregate's row, so that events are written in the order of their changes.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// As [`Transaction::execute`].
    pub async fn append(
        &self,
        open: &mut Transaction,
        aggregate: &str,
        sequence: i64,
        payload: Payload,
    ) -> Result<(), Error> {
        let now = Timestamp::now();
        let event = Event {
            event_id: uuid::Uuid::now_v7().to_string(),
            source: self.source.to_owned(),
            aggregate_id: aggregate.to_owned(),
            sequence,
            create_time: Some(now.into()),
            payload: Some(payload),
        };
        let bytes = event.encode_to_vec();
        for subscriber in self.recipients() {
            let values: [Value; 6] = [
                (*subscriber).into(),
                event.event_id.as_str().into(),
                aggregate.into(),
                sequence.into(),
                bytes.clone().into(),
                now.micros().into(),
            ];
            open.post(APPEND, &values).await?;
        }
        open.changed(queue::OUTBOX_TABLE.changed).await
    }
}

/// A handler of events.
#[tonic::async_trait]
pub trait Subscriber: Send + Sync + 'static {
    /// Handles a new event in this transaction. Events that do not concern the
    /// subscriber have no effect.
    ///
    /// # Errors
    /// [`HandleError::Transient`] when it may succeed later,
    /// [`HandleError::Permanent`] when it cannot: the event is parked then, and
    /// others continue.
    async fn handle(&self, open: &mut Transaction, event: &Event) -> Result<(), HandleError>;
}

/// The reason why an event was not handled.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The database failed.
    #[error(transparent)]
    Transient(#[from] Error),
    /// The event is invalid, for this reason.
    #[error("{0}")]
    Permanent(String),
}
