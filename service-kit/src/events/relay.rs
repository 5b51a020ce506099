//! Hands the events of an outbox to their subscribers.

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
    mesh::ToSink,
    nats::{NATS, ToStream},
    queue::{Fate, Queue, SENT, Waiting},
    tally::Tally,
};
use crate::{
    changes::Subscription,
    database::Error,
    lease::{Lease, Leases, Unfenced},
    service::Base,
    timestamp::Timestamp,
};

/// How often what waits is counted, while something does.
const COUNT: Duration = Duration::from_secs(2);

/// How a relay goes about it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RelaySettings {
    /// The most events that are delivered at once; 100.
    pub batch: usize,
    /// How often to look for events that nobody announced; 250 ms.
    pub poll: Duration,
    /// How long one replica may relay without saying that it still does; 6 s.
    /// So long nothing is delivered after it died.
    pub lease: Duration,
    /// How long one delivery may take; 3 s. Less than `lease`.
    pub deadline: Duration,
    /// How often an event is tried that its subscriber cannot take, before it is
    /// set aside; 20, which with the waits between them takes a quarter of an
    /// hour.
    pub attempts: i64,
    /// The first wait after a failure, which doubles with each; 100 ms.
    pub first: Duration,
    /// The longest wait before an event is tried again; 60 s.
    pub most: Duration,
    /// The longest wait while a subscriber is away; 2 s. Over NATS it ends when
    /// the connection is back.
    pub away: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            batch: 100,
            poll: Duration::from_millis(250),
            lease: Duration::from_secs(6),
            deadline: Duration::from_secs(3),
            attempts: 20,
            first: Duration::from_millis(100),
            most: Duration::from_secs(60),
            away: Duration::from_secs(2),
        }
    }
}

impl RelaySettings {
    /// The wait after the `n`-th failure in a row, which counts from 1.
    fn wait(&self, n: u32, most: Duration) -> Duration {
        let doubled = self.first.saturating_mul(1 << n.saturating_sub(1).min(16));
        doubled.min(most).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Hands the events of `outbox` to each subscriber, through the mesh, until
/// `leave` completes; then another replica may go on at once, and nothing more
/// is done. Of all replicas one does so for each subscriber at a time.
///
/// An event that its subscriber cannot take is tried again, at first soon and
/// then seldom; later ones of its aggregate wait behind it, others go on. After
/// [`RelaySettings::attempts`] it is set aside, and its aggregate goes on. A
/// subscriber that is away is no fault of its events, however long it is.
///
/// # Cancel safety
/// What is dropped between a delivery and its noting is delivered again.
pub async fn relay(
    outbox: Outbox,
    base: Base,
    settings: RelaySettings,
    leave: impl Future<Output = ()> + Send,
) {
    let leave = leave.shared();
    let one = |subscriber: &&'static str| {
        let to = ToSink::new(&base, subscriber, settings.deadline);
        let queue = Queue::new(base.database.clone(), &SENT, subscriber);
        Relay::new(&base, queue, to, settings).until(leave.clone()).boxed()
    };
    // Also over NATS: there may be some from before there was one.
    let mut relays: Vec<BoxFuture<'_, ()>> = outbox.subscribers.iter().map(one).collect();
    if let Some(nats) = &base.nats {
        let queue = Queue::new(base.database.clone(), &SENT, NATS);
        let to = ToStream::new(nats.clone(), outbox.source, settings.deadline);
        relays.push(Relay::new(&base, queue, to, settings).until(leave.clone()).boxed());
    }
    join_all(relays).await;
}

/// How events reach a subscriber.
#[tonic::async_trait]
pub(super) trait Transport: Send + Sync {
    /// Hands over events, oldest first.
    async fn deliver(&mut self, waiting: &[Waiting]) -> Delivered;

    /// Until a subscriber that was away at the last delivery is seen to be back:
    /// then it is tried at once. Never, where nothing tells of it.
    async fn back(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// What came of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    /// The positions of those that were taken.
    pub(super) taken: Vec<i64>,
    pub(super) then: Then,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Deliver on.
    Go,
    /// The events at these places are to blame, each of another aggregate; try
    /// them later.
    Blame(Vec<(usize, String)>),
    /// The event at this place can never be taken; set it aside.
    Park(usize, String),
    /// One of the events may be to blame; deliver fewer.
    Narrow(String),
    /// The subscriber is away; try later.
    Away(String),
}

impl Then {
    /// Nothing was taken.
    pub(super) fn alone(self) -> Delivered {
        Delivered { taken: Vec::new(), then: self }
    }
}

/// What to do after a round.
enum Next {
    /// There may be more.
    More,
    /// Nothing is due, or another replica sees to it.
    Idle,
    /// Wait, whatever is announced, unless the subscriber is back.
    Later(Duration),
}

/// Hands events to one subscriber.
pub(super) struct Relay<T> {
    queue: Queue,
    leases: Leases,
    transport: T,
    settings: RelaySettings,
    lease: Option<Lease>,
    /// How many to deliver at once; fewer while one may be to blame.
    limit: usize,
    /// Rounds that failed as a whole, in a row.
    failures: u32,
    tally: Arc<Tally>,
    counted: Option<Instant>,
}

impl<T: Transport> Relay<T> {
    pub(super) fn new(base: &Base, queue: Queue, transport: T, settings: RelaySettings) -> Self {
        let tally = Arc::new(Tally::default());
        if let Some(meter) = base.mesh.meter() {
            tally.tell(meter, true, queue.subscriber(), "shop.subscriber");
        }
        Self {
            queue,
            leases: Leases::new(base.database.clone()),
            transport,
            settings,
            lease: None,
            limit: settings.batch,
            failures: 0,
            tally,
            counted: None,
        }
    }

    /// Delivers until `leave` completes, and then lets another replica go on.
    pub(super) async fn until(mut self, leave: impl Future<Output = ()>) {
        tokio::select! {
            () = leave => {}
            () = self.run() => {}
        }
        if let Some(lease) = self.lease.take() {
            // It runs out all the same.
            let _ = lease.give_up().await;
        }
    }

    /// Never ends.
    async fn run(&mut self) {
        let mut changes = self.queue.changes();
        loop {
            match self.round().await {
                Ok(Next::More) => {}
                Ok(Next::Idle) => idle(&mut changes, self.settings.poll).await,
                Ok(Next::Later(wait)) => self.pause(wait).await,
                Err(why) => {
                    let wait = self.failed(&format!("the outbox: {why}"));
                    sleep(wait).await;
                }
            }
        }
    }

    /// Waits before a round that follows one that failed as a whole.
    async fn pause(&mut self, wait: Duration) {
        if timeout(wait, self.transport.back()).await.is_ok() {
            // What it may fail for now has not failed before.
            self.failures = self.failures.min(1);
        }
    }

    async fn round(&mut self) -> Result<Next, Error> {
        let waiting = self.queue.due(self.limit).await?;
        self.count(waiting.is_empty()).await?;
        if waiting.is_empty() || !self.holds().await? {
            return Ok(Next::Idle);
        }
        let delivered = self.transport.deliver(&waiting).await;
        Tally::add(&self.tally.delivered, delivered.taken.len());
        if !delivered.taken.is_empty() {
            self.went();
        }
        let fates = self.fates(&waiting, &delivered.then);
        if !delivered.taken.is_empty() || !fates.is_empty() {
            let Some(lease) = &mut self.lease else { return Ok(Next::Idle) };
            match self.queue.settle(lease, &self.settings, &delivered.taken, &fates).await {
                Ok(()) => {}
                Err(Unfenced::Lost(_)) => {
                    // Whoever holds it now delivers them again, without effect.
                    self.lease = None;
                    return Ok(Next::Idle);
                }
                Err(Unfenced::Database(why)) => return Err(why),
            }
        }
        Ok(self.next(delivered.then, waiting.len() == 1))
    }

    /// Whether the lease is ours for as long as a delivery may take.
    async fn holds(&mut self) -> Result<bool, Error> {
        let needed = self.settings.deadline.min(self.settings.lease / 2);
        match &mut self.lease {
            Some(lease) if lease.left() > needed => return Ok(true),
            Some(lease) => match lease.renew(self.settings.lease).await {
                Ok(()) => return Ok(true),
                Err(Unfenced::Lost(_)) => self.lease = None,
                Err(Unfenced::Database(why)) => return Err(why),
            },
            None => {}
        }
        let name = format!("relay/{}", self.queue.subscriber());
        self.lease = self.leases.take(&name, self.settings.lease).await?;
        Ok(self.lease.is_some())
    }

    /// What becomes of the events that are to blame.
    fn fates(&self, waiting: &[Waiting], then: &Then) -> Vec<(i64, Fate)> {
        let fate = |place: usize, why: &str, never| Some(self.fate(waiting.get(place)?, why, never));
        match then {
            Then::Blame(all) => all.iter().filter_map(|(place, why)| fate(*place, why, false)).collect(),
            Then::Park(place, why) => Vec::from_iter(fate(*place, why, true)),
            // Alone, it is to blame.
            Then::Narrow(why) if waiting.len() == 1 => Vec::from_iter(fate(0, why, false)),
            Then::Go | Then::Narrow(_) | Then::Away(_) => Vec::new(),
        }
    }

    fn fate(&self, event: &Waiting, why: &str, never: bool) -> (i64, Fate) {
        let settings = &self.settings;
        Tally::add(&self.tally.failures, 1);
        let (id, aggregate, tries) = (&event.id, &event.aggregate, event.attempts + 1);
        let subscriber = self.queue.subscriber();
        if never || tries >= settings.attempts {
            Tally::add(&self.tally.parked, 1);
            warn!(%id, %aggregate, subscriber, "event {id} is set aside after {tries} tries: {why}");
            return (event.position, Fate::Parked(why.to_owned()));
        }
        let wait = settings.wait(tries.try_into().unwrap_or(u32::MAX), settings.most);
        if tries == 1 {
            warn!(%id, %aggregate, subscriber, "{subscriber} cannot take event {id}, trying on: {why}");
        }
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        (event.position, Fate::Held(Timestamp::of_micros(Timestamp::now().micros() + micros)))
    }

    fn next(&mut self, then: Then, alone: bool) -> Next {
        match then {
            Then::Go => {
                self.limit = self.settings.batch.min(self.limit * 2);
                Next::More
            }
            Then::Blame(..) | Then::Park(..) => Next::More,
            Then::Narrow(_) if alone => Next::More,
            Then::Narrow(why) => {
                self.limit = 1;
                Next::Later(self.failed(&why))
            }
            Then::Away(why) => Next::Later(self.failed(&why)),
        }
    }

    /// A round failed as a whole; gives how long to wait.
    fn failed(&mut self, why: &str) -> Duration {
        Tally::add(&self.tally.failures, 1);
        self.failures = self.failures.saturating_add(1);
        let subscriber = self.queue.subscriber();
        if self.failures == 1 {
            warn!(subscriber, "events for {subscriber} wait: {why}");
        }
        self.settings.wait(self.failures, self.settings.away)
    }

    fn went(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            let subscriber = self.queue.subscriber();
            info!(subscriber, "events for {subscriber} go on");
        }
    }

    /// Counts what waits, now and then; nothing while nothing does.
    async fn count(&mut self, none_due: bool) -> Result<(), Error> {
        let Some(counted) = self.counted else {
            if !none_due {
                self.counted = Some(Instant::now());
                let (waiting, oldest) = self.queue.waiting().await?;
                self.tally.note(waiting, oldest);
            }
            return Ok(());
        };
        if counted.elapsed() > COUNT {
            let (waiting, oldest) = self.queue.waiting().await?;
            self.tally.note(waiting, oldest);
            self.counted = (waiting > 0).then(Instant::now);
        }
        Ok(())
    }
}

/// Until something was announced, or `poll` has passed.
async fn idle(changes: &mut Subscription, poll: Duration) {
    // Either way it is looked again.
    let _ = timeout(poll, changes.changed()).await;
}
