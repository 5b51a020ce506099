//! The relay, which delivers the events of an outbox to their subscribers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    Outbox,
    counters::EventCounters,
    nats::{NATS_SUBSCRIBER, StreamTransport},
    queue::{Disposition, OUTBOX_TABLE, PendingEvent, Queue},
    sink_transport::SinkTransport,
};
use crate::{
    changes::Subscription,
    database::Error,
    lease::{FenceError, Lease, Leases},
    service::ServiceContext,
    timestamp::Timestamp,
};

/// The interval between counts of a backlog that is not empty.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);

/// The settings of a relay.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RelaySettings {
    /// The maximum number of events in one delivery; 100.
    pub batch_size: usize,
    /// The interval of polls for events without a notification; 250 ms.
    pub poll_interval: Duration,
    /// The time to live of the relay's lease; 6 s. After a crash of the replica
    /// that holds it nothing is delivered for so long.
    pub lease: Duration,
    /// The timeout of one delivery; 3 s. Less than `lease`.
    pub delivery_timeout: Duration,
    /// The number of attempts for an event, after which it is parked; 20, which
    /// takes a quarter of an hour with the backoff.
    pub max_attempts: i64,
    /// The backoff after the first failure, which doubles with each; 100 ms.
    pub initial_backoff: Duration,
    /// The maximum backoff of an event; 60 s.
    pub max_backoff: Duration,
    /// The maximum backoff while a subscriber is unavailable; 2 s. Over NATS it
    /// ends when the connection is re-established.
    pub max_unavailable_backoff: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            batch_size: 100,
            poll_interval: Duration::from_millis(250),
            lease: Duration::from_secs(6),
            delivery_timeout: Duration::from_secs(3),
            max_attempts: 20,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(60),
            max_unavailable_backoff: Duration::from_secs(2),
        }
    }
}

impl RelaySettings {
    /// The backoff after the `n`-th failure in a row, which counts from 1.
    fn backoff(&self, n: u32, max: Duration) -> Duration {
        let doubled = self.initial_backoff.saturating_mul(1 << n.saturating_sub(1).min(16));
        doubled.min(max).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Delivers the events of `outbox` to each subscriber until `stop` completes;
/// then it releases its lease, so that another replica can continue at once. One
/// replica at a time delivers to a subscriber.
///
/// An event that its subscriber cannot handle is retried with backoff; later
/// events of its aggregate wait behind it, others do not. After
/// [`RelaySettings::max_attempts`] it is parked, and its aggregate continues. The
/// time during which a subscriber is unavailable does not count.
///
/// # Cancel safety
/// An event that was delivered, but not yet deleted, is delivered again.
pub async fn relay(
    outbox: Outbox,
    context: ServiceContext,
    settings: RelaySettings,
    stop: impl Future<Output = ()> + Send,
) {
    let stop = stop.shared();
    let one = |subscriber: &&'static str| {
        let to = SinkTransport::new(&context, subscriber, settings.delivery_timeout);
        let queue = Queue::new(context.database.clone(), &OUTBOX_TABLE, subscriber);
        Relay::new(&context, queue, to, settings).run_until(stop.clone()).boxed()
    };
    // With NATS too: rows from before it was configured may be left.
    let mut relays: Vec<BoxFuture<'_, ()>> = outbox.subscribers.iter().map(one).collect();
    if let Some(nats) = &context.nats {
        let queue = Queue::new(context.database.clone(), &OUTBOX_TABLE, NATS_SUBSCRIBER);
        let to = StreamTransport::new(nats.clone(), outbox.source, settings.delivery_timeout);
        relays.push(Relay::new(&context, queue, to, settings).run_until(stop.clone()).boxed());
    }
    join_all(relays).await;
}

/// The transport of events to a subscriber.
#[tonic::async_trait]
pub(super) trait Transport: Send + Sync {
    /// Delivers events, oldest first.
    async fn deliver(&mut self, waiting: &[PendingEvent]) -> Delivery;

    /// Waits until a subscriber that was unavailable at the last delivery is
    /// reachable again. Never completes where the transport cannot tell.
    async fn reconnected(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// The result of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The positions of the events that were taken.
    pub(super) taken: Vec<i64>,
    pub(super) status: DeliveryStatus,
}

/// The status of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DeliveryStatus {
    /// Nothing failed.
    Continue,
    /// The events at these indexes failed, each of another aggregate; retry them
    /// later.
    Failed(Vec<(usize, String)>),
    /// The event at this index can never be taken; park it.
    Park(usize, String),
    /// An unknown event of the batch failed; retry with a smaller one.
    FailedBatch(String),
    /// The subscriber is unavailable; retry later.
    Unavailable(String),
}

impl DeliveryStatus {
    pub(super) fn with_none_taken(self) -> Delivery {
        Delivery { taken: Vec::new(), status: self }
    }
}

/// The start of the next round.
enum NextRound {
    /// More events may be due.
    Now,
    /// Nothing is due, or another replica holds the lease.
    OnChange,
    /// Back off, unless the subscriber is reachable again.
    After(Duration),
}

/// The relay of events to one subscriber.
pub(super) struct Relay<T> {
    queue: Queue,
    leases: Leases,
    transport: T,
    settings: RelaySettings,
    lease: Option<Lease>,
    /// The current batch size; smaller after [`DeliveryStatus::FailedBatch`].
    limit: usize,
    /// The number of rounds in a row that failed as a whole.
    failures: u32,
    counters: Arc<EventCounters>,
    counted: Option<Instant>,
}

impl<T: Transport> Relay<T> {
    pub(super) fn new(context: &ServiceContext, queue: Queue, transport: T, settings: RelaySettings) -> Self {
        let counters = Arc::new(EventCounters::default());
        if let Some(meter) = context.mesh.meter() {
            counters.register(meter, true, queue.subscriber(), "shop.subscriber");
        }
        Self {
            queue,
            leases: Leases::new(context.database.clone()),
            transport,
            settings,
            lease: None,
            limit: settings.batch_size,
            failures: 0,
            counters,
            counted: None,
        }
    }

    /// Delivers until `stop` completes, and then releases the lease.
    pub(super) async fn run_until(mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.run() => {}
        }
        if let Some(lease) = self.lease.take() {
            // After a failure it expires.
            let _ = lease.release().await;
        }
    }

    async fn run(&mut self) {
        let mut changes = self.queue.changes();
        loop {
            match self.round().await {
                Ok(NextRound::Now) => {}
                Ok(NextRound::OnChange) => wait_for_change(&mut changes, self.settings.poll_interval).await,
                Ok(NextRound::After(wait)) => self.back_off(wait).await,
                Err(why) => {
                    let wait = self.record_failure(&format!("the outbox: {why}"));
                    sleep(wait).await;
                }
            }
        }
    }

    /// Waits after a round that failed as a whole.
    async fn back_off(&mut self, wait: Duration) {
        if timeout(wait, self.transport.reconnected()).await.is_ok() {
            // The next failure has another cause.
            self.failures = self.failures.min(1);
        }
    }

    async fn round(&mut self) -> Result<NextRound, Error> {
        let waiting = self.queue.due(self.limit).await?;
        self.update_backlog(waiting.is_empty()).await?;
        if waiting.is_empty() || !self.ensure_lease().await? {
            return Ok(NextRound::OnChange);
        }
        let delivered = self.transport.deliver(&waiting).await;
        EventCounters::add(&self.counters.delivered, delivered.taken.len());
        if !delivered.taken.is_empty() {
            self.record_success();
        }
        let dispositions = self.dispositions(&waiting, &delivered.status);
        if !delivered.taken.is_empty() || !dispositions.is_empty() {
            let Some(lease) = &mut self.lease else { return Ok(NextRound::OnChange) };
            match self.queue.settle(lease, &self.settings, &delivered.taken, &dispositions).await {
                Ok(()) => {}
                Err(FenceError::LeaseLost(_)) => {
                    // The new holder delivers them again, without effect.
                    self.lease = None;
                    return Ok(NextRound::OnChange);
                }
                Err(FenceError::Database(why)) => return Err(why),
            }
        }
        Ok(self.next(delivered.status, waiting.len() == 1))
    }

    /// Takes or renews the lease. True when it lasts as long as a delivery may take.
    async fn ensure_lease(&mut self) -> Result<bool, Error> {
        let needed = self.settings.delivery_timeout.min(self.settings.lease / 2);
        match &mut self.lease {
            Some(lease) if lease.remaining() > needed => return Ok(true),
            Some(lease) => match lease.renew(self.settings.lease).await {
                Ok(()) => return Ok(true),
                Err(FenceError::LeaseLost(_)) => self.lease = None,
                Err(FenceError::Database(why)) => return Err(why),
            },
            None => {}
        }
        let name = format!("relay/{}", self.queue.subscriber());
        self.lease = self.leases.take(&name, self.settings.lease).await?;
        Ok(self.lease.is_some())
    }

    /// The dispositions of the events that failed.
    fn dispositions(&self, waiting: &[PendingEvent], status: &DeliveryStatus) -> Vec<(i64, Disposition)> {
        let disposition =
            |index: usize, why: &str, park| Some(self.disposition(waiting.get(index)?, why, park));
        match status {
            DeliveryStatus::Failed(all) => {
                all.iter().filter_map(|(index, why)| disposition(*index, why, false)).collect()
            }
            DeliveryStatus::Park(index, why) => Vec::from_iter(disposition(*index, why, true)),
            // A single event is the one that failed.
            DeliveryStatus::FailedBatch(why) if waiting.len() == 1 => {
                Vec::from_iter(disposition(0, why, false))
            }
            DeliveryStatus::Continue | DeliveryStatus::FailedBatch(_) | DeliveryStatus::Unavailable(_) => {
                Vec::new()
            }
        }
    }

    fn disposition(&self, event: &PendingEvent, why: &str, park: bool) -> (i64, Disposition) {
        let settings = &self.settings;
        EventCounters::add(&self.counters.failures, 1);
        let (id, aggregate, attempts) = (&event.id, &event.aggregate, event.attempts + 1);
        let subscriber = self.queue.subscriber();
        if park || attempts >= settings.max_attempts {
            EventCounters::add(&self.counters.parked, 1);
            warn!(%id, %aggregate, subscriber, "parked event {id} after {attempts} attempts: {why}");
            return (event.position, Disposition::Park(why.to_owned()));
        }
        let wait = settings.backoff(attempts.try_into().unwrap_or(u32::MAX), settings.max_backoff);
        if attempts == 1 {
            warn!(%id, %aggregate, subscriber, "failed to deliver event {id} to {subscriber}, retrying: {why}");
        }
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        (event.position, Disposition::RetryAt(Timestamp::of_micros(Timestamp::now().micros() + micros)))
    }

    fn next(&mut self, status: DeliveryStatus, is_alone: bool) -> NextRound {
        match status {
            DeliveryStatus::Continue => {
                self.limit = self.settings.batch_size.min(self.limit * 2);
                NextRound::Now
            }
            DeliveryStatus::Failed(..) | DeliveryStatus::Park(..) => NextRound::Now,
            DeliveryStatus::FailedBatch(_) if is_alone => NextRound::Now,
            DeliveryStatus::FailedBatch(why) => {
                self.limit = 1;
                NextRound::After(self.record_failure(&why))
            }
            DeliveryStatus::Unavailable(why) => NextRound::After(self.record_failure(&why)),
        }
    }

    /// Records a round that failed as a whole; returns the backoff.
    fn record_failure(&mut self, why: &str) -> Duration {
        EventCounters::add(&self.counters.failures, 1);
        self.failures = self.failures.saturating_add(1);
        let subscriber = self.queue.subscriber();
        if self.failures == 1 {
            warn!(subscriber, "failed to deliver events to {subscriber}, retrying: {why}");
        }
        self.settings.backoff(self.failures, self.settings.max_unavailable_backoff)
    }

    fn record_success(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            let subscriber = self.queue.subscriber();
            info!(subscriber, "events are delivered to {subscriber} again");
        }
    }

    /// Counts the backlog at intervals, while it is not empty.
    async fn update_backlog(&mut self, none_due: bool) -> Result<(), Error> {
        let Some(counted) = self.counted else {
            if !none_due {
                self.counted = Some(Instant::now());
                let (waiting, oldest) = self.queue.backlog().await?;
                self.counters.set_backlog(waiting, oldest);
            }
            return Ok(());
        };
        if counted.elapsed() > COUNT_INTERVAL {
            let (waiting, oldest) = self.queue.backlog().await?;
            self.counters.set_backlog(waiting, oldest);
            self.counted = (waiting > 0).then(Instant::now);
        }
        Ok(())
    }
}

/// Waits for an announcement, or for the next poll.
async fn wait_for_change(changes: &mut Subscription, poll_interval: Duration) {
    let _ = timeout(poll_interval, changes.changed()).await;
}
