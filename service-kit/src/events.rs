//! Events: what has happened, told to the services that subscribe.
//!
//! - [`Outbox::append`] writes an event in the transaction of the change that it
//!   tells of: there is no change without its event, and no event without its
//!   change.
//! - A relay hands events to each subscriber, at least once, those of one
//!   aggregate in their order.
//! - A [`Subscriber`] has its effect in the transaction that remembers the
//!   event: each event has it once.
//! - [`Events`] adds to a service what sending and taking events needs.
//!
//! An event is a row for each subscriber that is deleted once it was delivered,
//! and not a row that each subscriber's cursor passes: PostgreSQL hands out
//! positions when rows are written and not when they are committed, so that a
//! cursor that has passed 8 never sees 7 when that is committed later. A row
//! that is there is a row to deliver, whenever it came. It also makes parking,
//! and a backlog for each subscriber, a matter of rows.
//!
//! Events of one aggregate are delivered in the order of their positions, which
//! is that of their changes: their writer holds the aggregate's row from before
//! it writes the event until its commit.
//!
//! How far subscribers lag is told by any replica, from its database: by
//! `EventLogService/GetBacklog` how many events wait for each and since when, and
//! by `ListParkedEvents` what was set aside and why. Over NATS the sender's backlog
//! ends at the stream (its subscriber is `nats`); what a service has written down
//! of the stream and not yet taken is in that service's own. The metrics
//! `shop.events.*` say the same where the mesh has a meter
//! ([`crate::metrics`]), as it has in every service with `CONSORT_ADMIN`: there
//! `/metrics` shows `shop_events_waiting` and `shop_events_oldest_age_seconds` by
//! subscriber, no more than two seconds old while something waits.
//!
//! ```text
//! curl http://127.0.0.1:9610/metrics
//! mesh call shop.events.v1.EventLogService/GetBacklog --service order-service
//! ```

use mesh_proto::shop::events::v1::{Event, event::Payload};
use prost::Message;

use crate::{
    database::{Error, Migration, Migrations, Transaction, Value},
    service::Base,
    timestamp::Timestamp,
};

mod inbox;
mod log;
mod mesh;
mod nats;
mod queue;
mod relay;
mod sink;
mod tally;
mod wiring;

pub use inbox::INBOX;
pub use nats::{InvalidNatsUrl, Nats};
pub use relay::{RelaySettings, relay};
pub use sink::Sink;
pub use wiring::Events;

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
    /// Whether NATS brings them to the subscribers.
    by_nats: bool,
}

impl Outbox {
    /// The events of the service `source`, for these services, on `base`: over
    /// NATS where that has one, else over the mesh.
    #[must_use]
    pub fn of(base: &Base, source: &'static str, subscribers: &'static [&'static str]) -> Self {
        Self { by_nats: base.nats.is_some(), ..Self::new(source, subscribers) }
    }

    /// The events of the service `source`, for these services, over the mesh.
    #[must_use]
    pub const fn new(source: &'static str, subscribers: &'static [&'static str]) -> Self {
        Self { source, subscribers, by_nats: false }
    }

    /// Who its rows are for.
    fn addressees(&self) -> &'static [&'static str] {
        if self.by_nats { &[nats::NATS] } else { self.subscribers }
    }

    /// Tells of a change, in its transaction: `sequence` is the version of the
    /// aggregate that it leads to. The transaction holds the aggregate's row,
    /// so that events are written in the order of their changes.
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
        for subscriber in self.addressees() {
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
        open.changed(queue::SENT.changed).await
    }
}

/// Who takes events.
#[tonic::async_trait]
pub trait Subscriber: Send + Sync + 'static {
    /// Has the effect of an event that was not seen before, in this
    /// transaction. Events that do not concern it are taken without effect.
    ///
    /// # Errors
    /// [`Untaken::Again`] when it may succeed later, [`Untaken::Never`] when it
    /// will not: the event is then parked, and others go on.
    async fn take(&self, open: &mut Transaction, event: &Event) -> Result<(), Untaken>;
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Untaken {
    /// The database failed.
    #[error(transparent)]
    Again(#[from] Error),
    /// It is not as it should be; says why.
    #[error("{0}")]
    Never(String),
}
