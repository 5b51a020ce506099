//! One instance's connection and its state.
//!
//! ```text
//!            ┌────────────── Connect ──────────────┐
//!            │                                     │
//!  Idle ─────┴─► Connecting ──Connected──► Ready ──┼─Goaway──► Draining
//!                  ▲   │                     │     │              │
//!               Connect└─Failed─┐          Closed  └──────────────┤
//!                  │            ▼            │                 Connect
//!                  └──── TransientFailure ◄──┴─────Closed─────────┘
//! ```

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::{
    connection::{self, Closed, ConnectSettings, Connection, Established, Observer},
    failure::Peer,
    pool::Lanes,
    watch::{HealthQuery, Watcher},
};
use crate::{backoff::ConnectBackoff, balance::Load, health::Watch, instance::InstanceId};

/// Where a subchannel stands. The vocabulary is gRPC's, with `Draining` for a
/// connection that finishes its streams while its successor is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing was tried yet.
    Idle,
    /// A connection is being made.
    Connecting,
    /// Calls may be sent.
    Ready,
    /// The peer takes no new calls; those under way go on.
    Draining,
    /// The last try failed; the next comes after a delay.
    TransientFailure,
}

/// What moves a subchannel from one state to another.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Connect,
    Connected(Arc<Connection>),
    Failed(Arc<str>),
    /// The peer takes no more calls on its connection, and why.
    Goaway(Arc<str>),
    Closed(Arc<str>),
    /// Its health service said something.
    Watched(Watch),
    /// There is a further connection, because the others are full.
    Joined(Arc<Connection>),
    /// A further connection takes no more calls.
    Left(Arc<Connection>),
}

impl State {
    /// Its name as gRPC writes it, in small letters.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::TransientFailure => "transient_failure",
        }
    }

    /// The only place where states change.
    pub(super) fn after(self, event: &Event) -> Self {
        match (self, event) {
            (Self::Idle | Self::Draining | Self::TransientFailure, Event::Connect) => Self::Connecting,
            (Self::Connecting, Event::Connected(_)) => Self::Ready,
            (Self::Connecting, Event::Failed(_)) => Self::TransientFailure,
            (Self::Ready, Event::Goaway(_)) => Self::Draining,
            (Self::Ready | Self::Draining, Event::Closed(_)) => Self::TransientFailure,
            (state, _) => state,
        }
    }
}

/// A subchannel as the pool sees it. Dropping it stops connecting; calls that
/// are under way on its connection finish.
#[derive(Debug)]
pub(super) struct Subchannel {
    pub(super) state: State,
    /// The connection of `Ready`.
    connection: Option<Arc<Connection>>,
    /// Further ones, whatever the state of the first.
    more: Vec<Arc<Connection>>,
    /// What its health service says; `Off` without a connection.
    pub(super) watch: Watch,
    /// Why the last try or connection ended; kept while trying again.
    pub(super) cause: Option<Arc<str>>,
    hurry: Arc<Notify>,
    eager: Arc<AtomicBool>,
    wanted: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Subchannel {
    /// Starts connecting to `peer`. Its events go to `events`, under its id
    /// and `generation`, which tells them from those of a predecessor.
    pub(super) fn start(
        peer: Peer,
        generation: u64,
        observed: (Arc<Load>, Observer),
        health: Option<HealthQuery>,
        settings: ConnectSettings,
        events: mpsc::Sender<(InstanceId, u64, Event)>,
    ) -> Self {
        let (hurry, wanted) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let eager = Arc::<AtomicBool>::default();
        let task = Task {
            peer,
            generation,
            observed,
            health,
            settings,
            events,
            hurry: hurry.clone(),
            eager: eager.clone(),
            wanted: wanted.clone(),
        };
        Self {
            state: State::Idle,
            connection: None,
            more: Vec::new(),
            watch: Watch::Off,
            cause: None,
            hurry,
            eager,
            wanted,
            _task: AbortOnDropHandle::new(tokio::spawn(Arc::new(task).run())),
        }
    }

    /// Applies an event of its own task.
    pub(super) fn apply(&mut self, event: Event) {
        self.state = self.state.after(&event);
        match event {
            Event::Connected(connection) => {
                self.connection = Some(connection);
                self.cause = None;
            }
            Event::Watched(watch) => self.watch = watch,
            Event::Failed(cause) | Event::Closed(cause) => {
                self.connection = None;
                self.watch = Watch::Off;
                self.cause = Some(cause);
            }
            Event::Goaway(cause) => {
                self.connection = None;
                self.cause = Some(cause);
            }
            Event::Connect => {}
            Event::Joined(connection) => self.more.push(connection),
            Event::Left(connection) => self.more.retain(|held| !Arc::ptr_eq(held, &connection)),
        }
    }

    /// Whether there is a connection that takes calls.
    pub(super) fn is_connected(&self) -> bool {
        self.connections().next().is_some()
    }

    /// Those that take calls, the first one first.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connection.iter().chain(&self.more)
    }

    /// The same for calls to choose from; `None` without any.
    pub(super) fn lanes(&self) -> Option<Lanes> {
        let mut all = self.connections().cloned();
        Some(Lanes { first: all.next()?, more: all.collect(), wanted: self.wanted.clone() })
    }

    /// Says whether there is reason to expect that connecting will succeed:
    /// delays between tries stay about a second then.
    pub(super) fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Relaxed);
    }

    /// Cuts the present delay short: there is news of the instance.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }
}

/// Makes a connection, watches it, makes the next.
struct Task {
    peer: Peer,
    generation: u64,
    observed: (Arc<Load>, Observer),
    /// Where its health is asked for; `None` when it is not.
    health: Option<HealthQuery>,
    settings: ConnectSettings,
    events: mpsc::Sender<(InstanceId, u64, Event)>,
    hurry: Arc<Notify>,
    eager: Arc<AtomicBool>,
    wanted: Arc<Notify>,
}

/// A further connection that was not used for so long is closed.
const UNUSED: Duration = Duration::from_secs(30);
/// How long after the start of a failed try another further one is made.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that ends sooner than this after it was made counts as a
/// failed try: its successor waits, so that a peer that accepts and hangs up
/// is not dialled in a busy loop.
const SHORT_LIVED: Duration = Duration::from_secs(1);

impl Task {
    /// Runs until the pool drops the subchannel.
    async fn run(self: Arc<Self>) {
        // Its further connections end with it.
        let mut further = JoinSet::new();
        let mut backoff = ConnectBackoff::new();
        loop {
            self.tell(Event::Connect).await;
            let started = Instant::now();
            let (peer, observed) = (self.peer.clone(), self.observed.clone());
            match connection::connect(peer, observed, &self.settings).await {
                Ok(established) => {
                    let since = Instant::now();
                    self.follow(established, &mut further).await;
                    if since.elapsed() >= SHORT_LIVED {
                        backoff = ConnectBackoff::new();
                        continue;
                    }
                }
                Err(error) => {
                    debug!(instance = %self.peer, %error, "could not connect");
                    self.tell(Event::Failed(error.to_string().into())).await;
                }
            }
            tokio::select! {
                biased;
                () = sleep_until(started + backoff.delay(self.eager.load(Relaxed))) => {}
                () = self.hurry.notified() => backoff = ConnectBackoff::new(),
            }
        }
    }

    /// Stays with a connection until it takes no more calls.
    async fn follow(self: &Arc<Self>, established: Established, further: &mut JoinSet<()>) {
        let Established { connection, draining, mut driver } = established;
        info!(instance = %self.peer, "connected");
        if self.health.is_some() && connection.has_a_stream_to_spare() {
            // First, so that it is held back until it has answered.
            self.tell(Event::Watched(Watch::Unknown)).await;
        }
        self.tell(Event::Connected(connection.clone())).await;
        tokio::select! {
            biased;
            // A draining connection lives on with its streams; its driver
            // ends by itself when the last of them does.
            Ok(goaway) = draining => {
                let refused = goaway.filter(|goaway| !goaway.is_graceful());
                let cause = refused.map_or_else(|| "it is draining".to_owned(), |goaway| goaway.to_string());
                info!(instance = %self.peer, %cause, "takes no more calls on its connection");
                self.tell(Event::Goaway(cause.into())).await;
            }
            closed = &mut driver => {
                let closed = closed.unwrap_or(Closed::Stopped);
                info!(instance = %self.peer, cause = %closed, "disconnected");
                self.tell(Event::Closed(closed.to_string().into())).await;
            }
            never = self.watch(&connection) => match never {},
            never = self.widen(&connection, further) => match never {},
        }
    }

    /// Tells what the peer says of its health; never completes.
    async fn watch(&self, connection: &Connection) -> Infallible {
        if let Some(query) = self.health.as_ref().filter(|_| connection.has_a_stream_to_spare()) {
            let mut watcher = Watcher::new(connection, query);
            while let Some(status) = watcher.next().await {
                self.tell(Event::Watched(status)).await;
            }
            self.tell(Event::Watched(Watch::Off)).await;
        }
        std::future::pending().await
    }

    /// Makes further connections while calls find `first` and the others full.
    async fn widen(self: &Arc<Self>, first: &Connection, further: &mut JoinSet<()>) -> Infallible {
        let most = self.settings.config.max_connections_per_instance.get() - 1;
        loop {
            self.wanted.notified().await;
            while further.try_join_next().is_some() {}
            // An old wish may have been granted meanwhile.
            if further.len() < most && !first.has_room() {
                let (task, (tell, ready)) = (self.clone(), oneshot::channel());
                further.spawn(async move { task.further(tell).await });
                // One after the other: the next may not be needed any more.
                let _ = ready.await;
            }
        }
    }

    /// Makes one further connection, and stays with it until it takes no more
    /// calls or none has come for long. `made` is dropped when another may be.
    async fn further(&self, made: oneshot::Sender<Infallible>) {
        let started = Instant::now();
        let (peer, observed) = (self.peer.clone(), self.observed.clone());
        let tried = connection::connect(peer, observed, &self.settings).await;
        let Established { connection, draining, mut driver } = match tried {
            Ok(established) => established,
            Err(error) => {
                debug!(instance = %self.peer, %error, "could not make a further connection");
                return sleep_until(started + PAUSE).await;
            }
        };
        info!(instance = %self.peer, "connected once more: it takes no more streams on the others");
        self.tell(Event::Joined(connection.clone())).await;
        drop(made);
        tokio::select! {
            biased;
            _ = draining => {}
            _ = &mut driver => {}
            () = unused(&connection) => {}
        }
        self.tell(Event::Left(connection)).await;
    }

    async fn tell(&self, event: Event) {
        // Fails only when the pool is gone, and then this task is about to be.
        let _ = self.events.send((self.peer.id.clone(), self.generation, event)).await;
    }
}

/// Completes when no call was sent on a connection for long and none is under
/// way.
async fn unused(connection: &Connection) {
    loop {
        let before = connection.streams().begun();
        sleep(UNUSED).await;
        if connection.streams().open() == 0 && connection.streams().begun() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Event {
        Event::Failed("refused".into())
    }

    fn closed() -> Event {
        Event::Closed("gone".into())
    }

    #[test]
    fn a_lost_instance_is_connected_to_again() {
        let lost = State::Ready.after(&closed());
        assert_eq!(lost, State::TransientFailure);
        assert_eq!(lost.after(&Event::Connect), State::Connecting);
    }

    #[test]
    fn a_draining_instance_takes_no_calls_until_there_is_a_new_connection() {
        let draining = State::Ready.after(&Event::Goaway("draining".into()));
        assert_eq!(draining, State::Draining);
        assert_eq!(draining.after(&Event::Connect), State::Connecting);
        assert_eq!(draining.after(&closed()), State::TransientFailure);
    }

    #[test]
    fn events_out_of_turn_change_nothing() {
        for (state, event) in [
            (State::Idle, failed()),
            (State::Idle, closed()),
            (State::Connecting, Event::Connect),
            (State::Connecting, Event::Goaway("draining".into())),
            (State::Ready, failed()),
            (State::TransientFailure, closed()),
        ] {
            assert_eq!(state.after(&event), state, "{state:?} after {event:?}");
        }
    }
}
