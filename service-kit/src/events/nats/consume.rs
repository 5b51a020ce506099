//! The consumer, which stores events from the stream in the service's database.

use std::time::{Duration, Instant};

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Stream,
};
use futures_util::StreamExt;
use mesh_proto::shop::events::v1::Event;
use prost::Message as _;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::{super::queue::ARRIVALS_TABLE, STREAM, TIMED_OUT, stream, subject};
use crate::{
    database::{Database, Error, Transaction},
    lease::{FenceError, Lease, Leases},
    nats::{Nats, REQUEST_TIMEOUT},
    timestamp::Timestamp,
};

/// The most messages that one transaction stores.
const MAX_BATCH_SIZE: usize = 100;
/// The most unacknowledged messages.
const MAX_ACK_PENDING: i64 = 1_000;
/// The time to live of the lease of the replica that pulls.
const LEASE_TIME: Duration = Duration::from_secs(6);
/// The interval of checks to renew the lease while no message arrives.
const RENEW_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which other replicas try to take the lease.
const LEASE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The maximum backoff while NATS is unavailable.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The time the server waits for an acknowledgement before it redelivers a
/// message. A lost message is missing for so long when no later one reveals the
/// gap.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// The interval of the server's idle heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

const POSITION: &str = "SELECT made, sequence FROM stream_positions WHERE stream = $1";

const ADVANCE: &str = "INSERT INTO stream_positions (stream, made, sequence) VALUES ($1, $2, $3) \
     ON CONFLICT (stream) DO UPDATE SET made = $2, sequence = $3";

const WRITE: &str = "INSERT INTO arrivals (subscriber, event_id, aggregate_id, sequence, event, create_time) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (event_id, subscriber) DO NOTHING";

/// Stores the stream's events of `sources` for the service `name`, until `stop`
/// completes. One replica at a time does so.
pub(in super::super) async fn consume(
    nats: Nats,
    database: Database,
    name: &'static str,
    sources: &'static [&'static str],
    stop: impl Future<Output = ()> + Clone,
) {
    let leases = Leases::new(database.clone());
    let connection = nats.connection.clone();
    let consumer = StreamConsumer { nats, database, name, sources };
    let mut failures = 0_u32;
    loop {
        let connected = connection.snapshot();
        let why = match leases.take(&format!("follow/{STREAM}"), LEASE_TIME).await {
            Ok(None) => tokio::select! {
                () = stop.clone() => return,
                () = sleep(LEASE_POLL_INTERVAL) => continue,
            },
            Ok(Some(mut lease)) => {
                let began = Instant::now();
                let why = tokio::select! {
                    why = consumer.run_session(&mut lease) => Some(why),
                    // Messages in flight are lost, and later ones may not reveal that.
                    () = connection.lost_since(connected) => Some("the connection to NATS was lost".to_owned()),
                    () = stop.clone() => None,
                };
                // Another replica may reach NATS.
                let _ = lease.release().await;
                let Some(why) = why else { return };
                if began.elapsed() > MAX_BACKOFF {
                    failures = 0;
                }
                why
            }
            Err(why) => why.to_string(),
        };
        if failures == 0 {
            warn!(stream = STREAM, "failed to consume the NATS stream {STREAM} for {name}, retrying: {why}");
        }
        failures = failures.saturating_add(1);
        let has_reconnected = tokio::select! {
            () = stop.clone() => return,
            done = timeout(backoff(failures), consumer.nats.reconnected_since(connected)) => done.is_ok(),
        };
        if has_reconnected {
            // The next failure has another cause.
            failures = 1;
        }
    }
}

/// The backoff after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    let max = Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(MAX_BACKOFF);
    max.mul_f64(0.5 + fastrand::f64() / 2.0)
}

struct StreamConsumer {
    nats: Nats,
    database: Database,
    name: &'static str,
    sources: &'static [&'static str],
}

/// The last stored message of a stream.
struct Position {
    /// The creation time of the stream.
    created: String,
    sequence: u64,
}

impl StreamConsumer {
    /// Consumes the stream until something fails; returns the reason.
    async fn run_session(&self, lease: &mut Lease) -> String {
        match Box::pin(self.consume(lease)).await {
            Ok(()) => "NATS ended the stream".to_owned(),
            Err(why) => why,
        }
    }

    async fn consume(&self, lease: &mut Lease) -> Result<(), String> {
        let stream = stream(&self.nats).await?;
        let mut position = self.position(&stream).await.map_err(|why| why.to_string())?;
        let consumer =
            timeout(REQUEST_TIMEOUT * 2, self.create_consumer(&stream, position.sequence + 1)).await;
        let consumer = consumer.map_err(|_| TIMED_OUT.to_owned())??;
        let messages = consumer
            .stream()
            .max_messages_per_batch(MAX_BATCH_SIZE)
            .heartbeat(HEARTBEAT_INTERVAL)
            .messages()
            .await
            .map_err(|why| why.to_string())?;
        let (name, start) = (self.name, position.sequence + 1);
        info!(stream = STREAM, "{name} consumes the NATS stream {STREAM} from message {start}");
        let mut batches = messages.ready_chunks(MAX_BATCH_SIZE);
        let mut next = 1;
        loop {
            if lease.remaining() < LEASE_TIME / 2 {
                lease.renew(LEASE_TIME).await.map_err(|why| why.to_string())?;
            }
            let Ok(batch) = timeout(RENEW_CHECK_INTERVAL, batches.next()).await else { continue };
            let Some(batch) = batch else { return Ok(()) };
            let batch: Vec<Message> =
                batch.into_iter().collect::<Result<_, _>>().map_err(|why| why.to_string())?;
            for message in &batch {
                let number = message.info().map_err(|why| why.to_string())?.consumer_sequence;
                if number != next {
                    return Err(format!("received message {number} instead of {next}"));
                }
                next += 1;
            }
            self.store(&batch, &mut position, lease).await?;
            for message in &batch {
                // After a lost acknowledgement the message is redelivered and ignored.
                message.ack().await.map_err(|why| why.to_string())?;
            }
        }
    }

    /// Reads the position in this stream: its beginning when it is another stream
    /// than before, since the inbox detects duplicates.
    async fn position(&self, stream: &Stream) -> Result<Position, Error> {
        let info = stream.cached_info();
        let created = info.created.unix_timestamp_nanos().to_string();
        let mut sequence = 0;
        if let Some(row) = self.database.row(POSITION, &[STREAM.into()]).await? {
            let stored = u64::try_from(row.get::<i64>("sequence")?).unwrap_or_default();
            if row.get::<String>("made")? == created && stored <= info.state.last_sequence {
                sequence = stored;
            }
        }
        Ok(Position { created, sequence })
    }

    /// Recreates this service's consumer, from this message on.
    async fn create_consumer(
        &self,
        stream: &Stream,
        start: u64,
    ) -> Result<async_nats::jetstream::consumer::PullConsumer, String> {
        // The first time there is none to delete.
        let _ = stream.delete_consumer(self.name).await;
        let config = pull::Config {
            durable_name: Some(self.name.to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            filter_subjects: self.sources.iter().map(|source| subject(source, "*")).collect(),
            max_ack_pending: MAX_ACK_PENDING,
            ..pull::Config::default()
        };
        let created = stream.create_consumer(config).await;
        created.map_err(|why| format!("failed to create the NATS consumer {}: {why}", self.name))
    }

    /// Stores messages and the new position, in one transaction that is fenced by
    /// the lease.
    async fn store(
        &self,
        batch: &[Message],
        position: &mut Position,
        lease: &mut Lease,
    ) -> Result<(), String> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await.map_err(|why| why.to_string())?;
            let done = match lease.fence(&mut open, LEASE_TIME).await {
                Ok(()) => self.write_batch(&mut open, batch, position).await.map_err(FenceError::from),
                Err(lost) => Err(lost),
            };
            if let Some(done) = unit.end(open, done).await {
                position.sequence = done.map_err(|why| why.to_string())?;
                lease.record_renewal(since, LEASE_TIME);
                return Ok(());
            }
        }
    }

    async fn write_batch(
        &self,
        open: &mut Transaction,
        batch: &[Message],
        position: &Position,
    ) -> Result<u64, Error> {
        let mut last = position.sequence;
        for message in batch {
            let sequence = message.info().map_or(0, |info| info.stream_sequence);
            if sequence > last {
                self.write(open, message, sequence).await?;
                last = sequence;
            }
        }
        let number = i64::try_from(last).unwrap_or(i64::MAX);
        open.execute(ADVANCE, &[STREAM.into(), position.created.as_str().into(), number.into()]).await?;
        open.changed(ARRIVALS_TABLE.changed).await?;
        Ok(last)
    }

    async fn write(&self, open: &mut Transaction, message: &Message, at: u64) -> Result<(), Error> {
        let bytes = message.payload.to_vec();
        // A message that is no event is stored, too, and parked later.
        let event = Event::decode(bytes.as_slice()).unwrap_or_default();
        let id = match Uuid::try_parse(&event.event_id) {
            Ok(_) => event.event_id,
            Err(_) => format!("{STREAM}-{at}"),
        };
        let aggregate = message.subject.rsplit('.').next().unwrap_or_default();
        let values = [
            self.name.into(),
            id.into(),
            aggregate.into(),
            event.sequence.into(),
            bytes.into(),
            Timestamp::now().micros().into(),
        ];
        open.execute(WRITE, &values).await.map(drop)
    }
}
