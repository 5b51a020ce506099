//! The connections to one instance and their state.
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
    health_check::{HealthCheckConfig, HealthWatcher},
    peer::Peer,
    pool::Connections,
};
use crate::{backoff::Backoff, balance::Load, health::ServingState, instance::InstanceId};

/// The connectivity state of a subchannel. The terms are gRPC's, with
/// `Draining` for a connection that finishes its streams while the next one is
/// opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubchannelState {
    /// No connection was attempted yet.
    Idle,
    /// A connection is being opened.
    Connecting,
    /// Calls may be sent.
    Ready,
    /// The peer takes no new calls; those in flight go on.
    Draining,
    /// The last attempt to connect failed; the next comes after a backoff.
    TransientFailure,
}

/// An event that changes a subchannel.
#[derive(Clone, Debug)]
pub(super) enum SubchannelEvent {
    Connect,
    Connected(Arc<Connection>),
    Failed(Arc<str>),
    /// The peer takes no more calls on its connection, with the reason.
    Goaway(Arc<str>),
    Closed(Arc<str>),
    /// The health check has a new status.
    HealthChanged(ServingState),
    /// Another connection was opened, because the others are at capacity.
    Added(Arc<Connection>),
    /// An additional connection takes no more calls.
    Removed(Arc<Connection>),
}

impl SubchannelState {
    /// The name that gRPC uses, in lower case.
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
    pub(super) fn after(self, event: &SubchannelEvent) -> Self {
        match (self, event) {
            (Self::Idle | Self::Draining | Self::TransientFailure, SubchannelEvent::Connect) => {
                Self::Connecting
            }
            (Self::Connecting, SubchannelEvent::Connected(_)) => Self::Ready,
            (Self::Connecting, SubchannelEvent::Failed(_)) => Self::TransientFailure,
            (Self::Ready, SubchannelEvent::Goaway(_)) => Self::Draining,
            (Self::Ready | Self::Draining, SubchannelEvent::Closed(_)) => Self::TransientFailure,
            (state, _) => state,
        }
    }
}

/// A subchannel, owned by the pool. Dropping it stops its task; calls in flight
/// on its connections finish.
#[derive(Debug)]
pub(super) struct Subchannel {
    pub(super) state: SubchannelState,
    /// The connection of `Ready`.
    connection: Option<Arc<Connection>>,
    /// Additional connections, whatever the state of the first.
    more: Vec<Arc<Connection>>,
    /// The status of the health check; `Off` without a connection.
    pub(super) watch: ServingState,
    /// The reason for which the last attempt or connection ended; kept while
    /// the next is attempted.
    pub(super) cause: Option<Arc<str>>,
    reset_backoff: Arc<Notify>,
    expect_success: Arc<AtomicBool>,
    all_full: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Subchannel {
    /// Starts connecting to `peer`. The events go to `events` with the
    /// instance's id and `generation`, which distinguishes them from those of a
    /// predecessor.
    pub(super) fn start(
        peer: Peer,
        generation: u64,
        observed: (Arc<Load>, Observer),
        health: Option<HealthCheckConfig>,
        settings: ConnectSettings,
        events: mpsc::Sender<(InstanceId, u64, SubchannelEvent)>,
    ) -> Self {
        let (reset_backoff, all_full) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let expect_success = Arc::<AtomicBool>::default();
        let task = Task {
            peer,
            generation,
            observed,
            health,
            settings,
            events,
            reset_backoff: reset_backoff.clone(),
            expect_success: expect_success.clone(),
            all_full: all_full.clone(),
        };
        Self {
            state: SubchannelState::Idle,
            connection: None,
            more: Vec::new(),
            watch: ServingState::Off,
            cause: None,
            reset_backoff,
            expect_success,
            all_full,
            _task: AbortOnDropHandle::new(tokio::spawn(Arc::new(task).run())),
        }
    }

    /// Applies an event of its own task.
    pub(super) fn apply(&mut self, event: SubchannelEvent) {
        self.state = self.state.after(&event);
        match event {
            SubchannelEvent::Connected(connection) => {
                self.connection = Some(connection);
                self.cause = None;
            }
            SubchannelEvent::HealthChanged(watch) => self.watch = watch,
            SubchannelEvent::Failed(cause) | SubchannelEvent::Closed(cause) => {
                self.connection = None;
                self.watch = ServingState::Off;
                self.cause = Some(cause);
            }
            SubchannelEvent::Goaway(cause) => {
                self.connection = None;
                self.cause = Some(cause);
            }
            SubchannelEvent::Connect => {}
            SubchannelEvent::Added(connection) => self.more.push(connection),
            SubchannelEvent::Removed(connection) => self.more.retain(|held| !Arc::ptr_eq(held, &connection)),
        }
    }

    /// Returns whether a connection takes calls.
    pub(super) fn is_connected(&self) -> bool {
        self.connections().next().is_some()
    }

    /// The connections that take calls, the first one first.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connection.iter().chain(&self.more)
    }

    /// The connections that take calls, for a snapshot; `None` without any.
    pub(super) fn connections_for_calls(&self) -> Option<Connections> {
        let mut all = self.connections().cloned();
        Some(Connections { first: all.next()?, more: all.collect(), all_full: self.all_full.clone() })
    }

    /// Sets whether the next attempt is expected to succeed: the backoff stays
    /// about a second then.
    pub(super) fn set_expect_success(&self, expect_success: bool) {
        self.expect_success.store(expect_success, Relaxed);
    }

    /// Ends the current backoff: the registry has news of the instance.
    pub(super) fn reset_backoff(&self) {
        self.reset_backoff.notify_one();
    }
}

/// The task of a subchannel: opens a connection, monitors it, opens the next.
struct Task {
    peer: Peer,
    generation: u64,
    observed: (Arc<Load>, Observer),
    /// The health check; `None` when it is off.
    health: Option<HealthCheckConfig>,
    settings: ConnectSettings,
    events: mpsc::Sender<(InstanceId, u64, SubchannelEvent)>,
    reset_backoff: Arc<Notify>,
    expect_success: Arc<AtomicBool>,
    all_full: Arc<Notify>,
}

/// An additional connection that was unused for so long is closed.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(30);
/// The least time between failed attempts to open an additional connection.
const ADD_CONNECTION_INTERVAL: Duration = Duration::from_secs(1);

/// A connection with a shorter lifetime counts as a failed attempt and is
/// followed by a backoff, so that a peer that accepts and closes is not dialled
/// in a busy loop.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

impl Task {
    /// Runs until the pool drops the subchannel.
    async fn run(self: Arc<Self>) {
        // The additional connections end with this task.
        let mut more_connections = JoinSet::new();
        let mut backoff = Backoff::connect();
        loop {
            self.send(SubchannelEvent::Connect).await;
            let started = Instant::now();
            let (peer, observed) = (self.peer.clone(), self.observed.clone());
            match connection::connect(peer, observed, &self.settings).await {
                Ok(established) => {
                    let since = Instant::now();
                    self.monitor(established, &mut more_connections).await;
                    if since.elapsed() >= MIN_LIFETIME {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) => {
                    debug!(instance = %self.peer, %error, "failed to connect to {}: {error}", self.peer);
                    self.send(SubchannelEvent::Failed(error.to_string().into())).await;
                }
            }
            let delay = match self.expect_success.load(Relaxed) {
                true => backoff.next_expecting_success(),
                false => backoff.next(),
            };
            tokio::select! {
                biased;
                () = sleep_until(started + delay) => {}
                () = self.reset_backoff.notified() => backoff.reset(),
            }
        }
    }

    /// Monitors a connection until it takes no more calls.
    async fn monitor(self: &Arc<Self>, established: Established, more_connections: &mut JoinSet<()>) {
        let Established { connection, draining, mut driver } = established;
        info!(instance = %self.peer, "connected to {}", self.peer);
        if self.health.is_some() && connection.has_spare_stream() {
            // Sent first, so that the instance gets no calls before its first
            // status.
            self.send(SubchannelEvent::HealthChanged(ServingState::Unknown)).await;
        }
        self.send(SubchannelEvent::Connected(connection.clone())).await;
        tokio::select! {
            biased;
            // A draining connection lives on with its streams; its driver ends
            // when the last of them does.
            Ok(goaway) = draining => {
                let refused = goaway.filter(|goaway| !goaway.is_graceful());
                let cause = refused.map_or_else(|| "it is draining".to_owned(), |goaway| goaway.to_string());
                info!(instance = %self.peer, %cause, "{} takes no more calls on its connection: {cause}", self.peer);
                self.send(SubchannelEvent::Goaway(cause.into())).await;
            }
            closed = &mut driver => {
                let closed = closed.unwrap_or(Closed::Stopped);
                info!(instance = %self.peer, cause = %closed, "disconnected from {}: {closed}", self.peer);
                self.send(SubchannelEvent::Closed(closed.to_string().into())).await;
            }
            never = self.watch(&connection) => match never {},
            never = self.add_connections(&connection, more_connections) => match never {},
        }
    }

    /// Reports the status of the health check; never completes.
    async fn watch(&self, connection: &Connection) -> Infallible {
        if let Some(query) = self.health.as_ref().filter(|_| connection.has_spare_stream()) {
            let mut watcher = HealthWatcher::new(connection, query);
            while let Some(status) = watcher.next().await {
                self.send(SubchannelEvent::HealthChanged(status)).await;
            }
            self.send(SubchannelEvent::HealthChanged(ServingState::Off)).await;
        }
        std::future::pending().await
    }

    /// Opens additional connections while calls find `first` and the others at
    /// capacity.
    async fn add_connections(
        self: &Arc<Self>,
        first: &Connection,
        more_connections: &mut JoinSet<()>,
    ) -> Infallible {
        let max = self.settings.config.max_connections_per_instance.get() - 1;
        loop {
            self.all_full.notified().await;
            while more_connections.try_join_next().is_some() {}
            // The connections may have capacity again by now.
            if more_connections.len() < max && !first.has_capacity() {
                let (task, (send, ready)) = (self.clone(), oneshot::channel());
                more_connections.spawn(async move { task.more_connections(send).await });
                // One after the other: the next may not be needed.
                let _ = ready.await;
            }
        }
    }

    /// Opens an additional connection, and monitors it until it takes no more
    /// calls or is unused for long. `made` is dropped when it is open.
    async fn more_connections(&self, made: oneshot::Sender<Infallible>) {
        let started = Instant::now();
        let (peer, observed) = (self.peer.clone(), self.observed.clone());
        let tried = connection::connect(peer, observed, &self.settings).await;
        let Established { connection, draining, mut driver } = match tried {
            Ok(established) => established,
            Err(error) => {
                debug!(instance = %self.peer, %error, "failed to open an additional connection to {}: {error}", self.peer);
                return sleep_until(started + ADD_CONNECTION_INTERVAL).await;
            }
        };
        info!(instance = %self.peer, "opened an additional connection to {}: the others are at its stream limit", self.peer);
        self.send(SubchannelEvent::Added(connection.clone())).await;
        drop(made);
        tokio::select! {
            biased;
            _ = draining => {}
            _ = &mut driver => {}
            () = unused(&connection) => {}
        }
        self.send(SubchannelEvent::Removed(connection)).await;
    }

    async fn send(&self, event: SubchannelEvent) {
        // Fails only when the pool was dropped, which ends this task too.
        let _ = self.events.send((self.peer.id.clone(), self.generation, event)).await;
    }
}

/// Completes when no call was sent on a connection for long and none is in
/// flight.
async fn unused(connection: &Connection) {
    loop {
        let before = connection.streams().begun();
        sleep(UNUSED_TIMEOUT).await;
        if connection.streams().open() == 0 && connection.streams().begun() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> SubchannelEvent {
        SubchannelEvent::Failed("refused".into())
    }

    fn closed() -> SubchannelEvent {
        SubchannelEvent::Closed("gone".into())
    }

    #[test]
    fn a_lost_instance_is_connected_to_again() {
        let lost = SubchannelState::Ready.after(&closed());
        assert_eq!(lost, SubchannelState::TransientFailure);
        assert_eq!(lost.after(&SubchannelEvent::Connect), SubchannelState::Connecting);
    }

    #[test]
    fn a_draining_instance_takes_no_calls_until_there_is_a_new_connection() {
        let draining = SubchannelState::Ready.after(&SubchannelEvent::Goaway("draining".into()));
        assert_eq!(draining, SubchannelState::Draining);
        assert_eq!(draining.after(&SubchannelEvent::Connect), SubchannelState::Connecting);
        assert_eq!(draining.after(&closed()), SubchannelState::TransientFailure);
    }

    #[test]
    fn events_out_of_turn_change_nothing() {
        for (state, event) in [
            (SubchannelState::Idle, failed()),
            (SubchannelState::Idle, closed()),
            (SubchannelState::Connecting, SubchannelEvent::Connect),
            (SubchannelState::Connecting, SubchannelEvent::Goaway("draining".into())),
            (SubchannelState::Ready, failed()),
            (SubchannelState::TransientFailure, closed()),
        ] {
            assert_eq!(state.after(&event), state, "{state:?} after {event:?}");
        }
    }
}
