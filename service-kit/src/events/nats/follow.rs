//! From the stream to a service.

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

use super::{super::queue::ARRIVED, LIMIT, Nats, STREAM, subject};
use crate::{
    database::{Database, Error, Transaction},
    lease::{Lease, Leases, Unfenced},
    timestamp::Timestamp,
};

/// The most messages that are written down at once.
const BATCH: usize = 100;
/// The most that may be on their way, unacknowledged.
const UNDER_WAY: i64 = 1_000;
/// How long one replica may pull without saying that it still does.
const LEASE: Duration = Duration::from_secs(6);
/// How often it looks whether to say so while nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// How often another looks whether it may pull.
const POLL: Duration = Duration::from_millis(500);
/// The longest wait while NATS is away.
const AWAY: Duration = Duration::from_secs(2);
/// How long the server waits for an acknowledgement before it sends a message
/// again. So long one that was lost on its way is missed, when none comes after
/// it that tells of the gap.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);
/// Sooner than this the server says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);

const POSITION: &str = "SELECT made, sequence FROM stream_positions WHERE stream = $1";

const ADVANCE: &str = "INSERT INTO stream_positions (stream, made, sequence) VALUES ($1, $2, $3) \
     ON CONFLICT (stream) DO UPDATE SET made = $2, sequence = $3";

const WRITE: &str = "INSERT INTO arrivals (subscriber, event_id, aggregate_id, sequence, event, create_time) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (event_id, subscriber) DO NOTHING";

/// Writes down what the stream brings of `sources` for the service `name`, until
/// `leave` completes. Of all replicas one does so at a time.
pub(in super::super) async fn follow(
    nats: Nats,
    database: Database,
    name: &'static str,
    sources: &'static [&'static str],
    leave: impl Future<Output = ()> + Clone,
) {
    let leases = Leases::new(database.clone());
    let link = nats.link.clone();
    let follower = Follower { nats, database, name, sources };
    let mut failures = 0_u32;
    loop {
        let connected = link.now();
        let why = match leases.take(&format!("follow/{STREAM}"), LEASE).await {
            Ok(None) => tokio::select! {
                () = leave.clone() => return,
                () = sleep(POLL) => continue,
            },
            Ok(Some(mut lease)) => {
                let began = Instant::now();
                let why = tokio::select! {
                    why = follower.session(&mut lease) => Some(why),
                    // What was on its way is lost, and may be the last for long.
                    () = link.lost_since(connected) => Some("the connection to NATS was lost".to_owned()),
                    () = leave.clone() => None,
                };
                // Whoever can reach NATS may go on.
                let _ = lease.give_up().await;
                let Some(why) = why else { return };
                if began.elapsed() > AWAY {
                    failures = 0;
                }
                why
            }
            Err(why) => why.to_string(),
        };
        if failures == 0 {
            warn!(stream = STREAM, "{name} is not brought events, trying on: {why}");
        }
        failures = failures.saturating_add(1);
        let back = tokio::select! {
            () = leave.clone() => return,
            back = timeout(pause(failures), follower.nats.back_since(connected)) => back.is_ok(),
        };
        if back {
            // What it may fail for now has not failed before.
            failures = 1;
        }
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let most = Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(AWAY);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

struct Follower {
    nats: Nats,
    database: Database,
    name: &'static str,
    sources: &'static [&'static str],
}

/// Up to where a stream was written down.
struct Position {
    made: String,
    sequence: u64,
}

impl Follower {
    /// Follows the stream until something fails; gives what.
    async fn session(&self, lease: &mut Lease) -> String {
        match Box::pin(self.follow(lease)).await {
            Ok(()) => "NATS ended the stream".to_owned(),
            Err(why) => why,
        }
    }

    async fn follow(&self, lease: &mut Lease) -> Result<(), String> {
        let stream = self.nats.stream().await?;
        let mut position = self.position(&stream).await.map_err(|why| why.to_string())?;
        let consumer = timeout(LIMIT * 2, self.consumer(&stream, position.sequence + 1)).await;
        let consumer = consumer.map_err(|_| "NATS does not answer".to_owned())??;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|why| why.to_string())?;
        info!(stream = STREAM, "{} follows {STREAM} from {}", self.name, position.sequence + 1);
        let mut batches = messages.ready_chunks(BATCH);
        let mut next = 1;
        loop {
            if lease.left() < LEASE / 2 {
                lease.renew(LEASE).await.map_err(|why| why.to_string())?;
            }
            let Ok(batch) = timeout(TICK, batches.next()).await else { continue };
            let Some(batch) = batch else { return Ok(()) };
            let batch: Vec<Message> =
                batch.into_iter().collect::<Result<_, _>>().map_err(|why| why.to_string())?;
            for message in &batch {
                let came = message.info().map_err(|why| why.to_string())?.consumer_sequence;
                if came != next {
                    return Err(format!("message {came} came where {next} was due; beginning anew"));
                }
                next += 1;
            }
            self.write_down(&batch, &mut position, lease).await?;
            for message in &batch {
                // One that is lost is sent again, and then known.
                message.ack().await.map_err(|why| why.to_string())?;
            }
        }
    }

    /// Where to go on in this stream: from its beginning when it is another than
    /// the one that was followed before, for the inbox knows what it has seen.
    async fn position(&self, stream: &Stream) -> Result<Position, Error> {
        let info = stream.cached_info();
        let made = info.created.unix_timestamp_nanos().to_string();
        let mut sequence = 0;
        if let Some(row) = self.database.row(POSITION, &[STREAM.into()]).await? {
            let reached = u64::try_from(row.get::<i64>("sequence")?).unwrap_or_default();
            if row.get::<String>("made")? == made && reached <= info.state.last_sequence {
                sequence = reached;
            }
        }
        Ok(Position { made, sequence })
    }

    /// This service's consumer, from this message on, as nobody has used it.
    async fn consumer(
        &self,
        stream: &Stream,
        start: u64,
    ) -> Result<async_nats::jetstream::consumer::PullConsumer, String> {
        // There is none the first time.
        let _ = stream.delete_consumer(self.name).await;
        let config = pull::Config {
            durable_name: Some(self.name.to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACKNOWLEDGED,
            filter_subjects: self.sources.iter().map(|source| subject(source, "*")).collect(),
            max_ack_pending: UNDER_WAY,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.map_err(|why| format!("no consumer can be had: {why}"))
    }

    /// Writes down messages and how far the stream now is, in one transaction of
    /// the lease's holder.
    async fn write_down(
        &self,
        batch: &[Message],
        position: &mut Position,
        lease: &mut Lease,
    ) -> Result<(), String> {
        let mut unit = self.database.unit();
        loop {
            let since = Instant::now();
            let mut open = unit.begin().await.map_err(|why| why.to_string())?;
            let done = match lease.fence(&mut open, LEASE).await {
                Ok(()) => self.written(&mut open, batch, position).await.map_err(Unfenced::from),
                Err(lost) => Err(lost),
            };
            if let Some(done) = unit.end(open, done).await {
                position.sequence = done.map_err(|why| why.to_string())?;
                lease.renewed(since, LEASE);
                return Ok(());
            }
        }
    }

    async fn written(
        &self,
        open: &mut Transaction,
        batch: &[Message],
        position: &Position,
    ) -> Result<u64, Error> {
        let mut reached = position.sequence;
        for message in batch {
            let sequence = message.info().map_or(0, |info| info.stream_sequence);
            if sequence > reached {
                self.write(open, message, sequence).await?;
                reached = sequence;
            }
        }
        let number = i64::try_from(reached).unwrap_or(i64::MAX);
        open.execute(ADVANCE, &[STREAM.into(), position.made.as_str().into(), number.into()]).await?;
        open.changed(ARRIVED.changed).await?;
        Ok(reached)
    }

    async fn write(&self, open: &mut Transaction, message: &Message, at: u64) -> Result<(), Error> {
        let bytes = message.payload.to_vec();
        // What is no event is written down all the same, to be set aside.
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
