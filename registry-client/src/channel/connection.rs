//! One HTTP/2 connection to one instance.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{
    connect::{Connector, Socket},
    interim::FinalResponse,
    keepalive::{Goaway, InstancePings, Keepalive, KeepaliveTimes, ObservedIo, PingLimit, Received},
    peer::Peer,
    streams::Streams,
};
use crate::{
    ChannelConfig,
    balance::Load,
    code::Code,
    health::{Probe, Record},
    outcome::{Cause, Outcome},
};

/// The receive window of a stream, in bytes. Large enough that round trips do
/// not throttle a fast link.
const STREAM_WINDOW: u32 = 2 << 20;
/// The receive window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// The largest response head or trailers that are accepted, in bytes; bounds
/// the memory that a hostile server can make us use.
const MAX_HEADER_LIST: u32 = 64 << 10;

/// An established connection: the peer has acknowledged our settings. Closes
/// when it was dropped and its last stream has ended.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    load: Arc<Load>,
    streams: Arc<Streams>,
    observer: Observer,
    send: SendRequest<Bytes>,
    /// The calls that fit on the connection, by the peer's last SETTINGS.
    max_streams: Arc<AtomicU32>,
    /// True if the peer has answered a call with another status than
    /// UNIMPLEMENTED.
    has_served: Arc<AtomicBool>,
}

/// The receiver of the outcomes of attempts.
#[derive(Clone, Debug, Default)]
pub(super) enum Observer {
    /// Outcomes are not recorded.
    #[default]
    Discard,
    Record(Arc<Record>),
    /// The connection is for one attempt, which decides whether the instance
    /// returns.
    Probe(Arc<Probe>),
}

impl Connection {
    /// Begins a stream.
    #[inline]
    pub(super) fn send(
        &self,
        head: http::Request<()>,
        end: bool,
    ) -> Result<(FinalResponse, h2::SendStream<Bytes>), h2::Error> {
        // A clone has no pending stream, so that `h2` queues the request
        // instead of rejecting it at the peer's stream limit; the deadline
        // bounds the wait.
        let (response, request) = self.send.clone().send_request(head, end)?;
        Ok((FinalResponse::new(response), request))
    }

    /// Counts a request as in flight; returns the number of all requests before
    /// it.
    pub(super) fn begin(&self) -> u32 {
        self.load.begin();
        self.streams.begin()
    }

    /// Counts a request as ended.
    pub(super) fn end(&self) {
        self.streams.end();
        self.load.end();
    }

    /// Records the outcome of an attempt.
    pub(super) fn observe(&self, outcome: Outcome) {
        match &self.observer {
            // A lost connection ends all its streams: that is one failure, and
            // the pool records it.
            Observer::Record(_)
                if matches!(outcome.cause, Cause::ConnectionLost | Cause::Refused) && self.is_closed() => {}
            Observer::Record(record) => record.observe(outcome),
            Observer::Probe(probe) => probe.observe(outcome),
            Observer::Discard => {}
        }
    }

    /// Records that a stream of messages has begun, which is all that a probe
    /// can wait for.
    pub(super) fn stream_began(&self) {
        if let Observer::Probe(probe) = &self.observer {
            probe.observe(Outcome::status(Code::OK));
        }
    }

    /// Returns whether the peer has answered a call with another status than
    /// UNIMPLEMENTED.
    pub(super) fn has_served(&self) -> bool {
        self.has_served.load(Relaxed)
    }

    /// Records that the peer has answered a call with another status than
    /// UNIMPLEMENTED.
    pub(super) fn set_served(&self) {
        // A load does not take the cache line from other cores, a store does.
        if !self.has_served() {
            self.has_served.store(true, Relaxed);
        }
    }

    /// A handle of this connection for one call, whose outcome goes to `probe`.
    pub(super) fn with_probe(&self, probe: Arc<Probe>) -> Self {
        Self {
            peer: self.peer.clone(),
            load: self.load.clone(),
            streams: self.streams.clone(),
            observer: Observer::Probe(probe),
            send: self.send.clone(),
            max_streams: self.max_streams.clone(),
            has_served: self.has_served.clone(),
        }
    }

    /// Returns whether another call would be sent at once, without waiting for
    /// one to end.
    pub(super) fn has_capacity(&self) -> bool {
        self.streams.open() < self.max_streams.load(Relaxed)
    }

    /// Reads the peer's stream limit again and returns whether there is
    /// capacity.
    pub(super) fn refresh_capacity(&self) -> bool {
        self.max_streams.store(call_capacity(self.send.current_max_send_streams()), Relaxed);
        self.has_capacity()
    }

    /// Returns whether the peer allows a long-lived stream beside the calls.
    pub(super) fn has_spare_stream(&self) -> bool {
        self.send.current_max_send_streams() > 1
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Returns whether the connection takes no more streams: it ended, or the
    /// peer sent GOAWAY.
    fn is_closed(&self) -> bool {
        self.is_draining(&mut Context::from_waker(Waker::noop()))
    }

    /// Returns whether the peer takes no more streams: it sent GOAWAY.
    fn is_draining(&self, cx: &mut Context<'_>) -> bool {
        matches!(self.send.clone().poll_ready(cx), Poll::Ready(Err(_)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Observer::Probe(probe) = &self.observer {
            probe.drop_call();
        }
    }
}

/// The calls that fit on a connection that allows so many streams: one stream
/// is reserved for the health check.
fn call_capacity(streams: usize) -> u32 {
    u32::try_from(streams).unwrap_or(u32::MAX).saturating_sub(1).max(1)
}

/// The reason for which a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("the peer closed the connection")]
    Finished,
    #[error("the peer closed the connection: {0}")]
    Goaway(Goaway),
    #[error("the connection broke: {0}")]
    Broken(h2::Error),
    #[error("no answer to a ping within {0:?}")]
    KeepaliveTimeout(Duration),
    #[error("its task ended")]
    Stopped,
}

/// The reason for which a connection could not be established.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the HTTP/2 handshake failed: {0}")]
    Handshake(h2::Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Closed(Closed),
}

/// A new connection with the task that drives it.
pub(super) struct Established {
    pub(super) connection: Arc<Connection>,
    /// Completes when the peer sends GOAWAY, with that frame, or when the
    /// connection ends.
    pub(super) draining: oneshot::Receiver<Option<Goaway>>,
    pub(super) driver: JoinHandle<Closed>,
}

/// The settings of connections to one instance. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnectSettings {
    pub(super) connector: Connector,
    pub(super) config: ChannelConfig,
    pub(super) pings: Arc<InstancePings>,
}

/// Connects and waits until the peer has acknowledged our settings, so that a
/// socket that only accepts (a stopped process, a half-open proxy) does not
/// count as an instance that serves.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn connect(
    peer: Peer,
    (load, observer): (Arc<Load>, Observer),
    settings: &ConnectSettings,
) -> Result<Established, ConnectError> {
    let config = &settings.config;
    let timeout = config.connect_timeout;
    let deadline = Instant::now() + timeout;
    let within = |result: Result<_, _>| result.unwrap_or(Err(ConnectError::TimedOut(timeout)));
    let opening = async { Ok(settings.connector.open(&peer.address, deadline, config).await?) };
    let socket = within(tokio::time::timeout_at(deadline, opening).await)?;

    let received = Arc::<Received>::default();
    let io = ObservedIo::new(socket, received.clone());
    let (send, mut driving) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(ConnectError::Handshake)?;
    let ping = driving.ping_pong();
    let streams = Arc::<Streams>::default();
    let connection = Arc::new(Connection {
        peer,
        load,
        streams: streams.clone(),
        observer,
        send,
        max_streams: Arc::default(),
        has_served: Arc::default(),
    });

    let (answered, first_answer) = oneshot::channel();
    let (drains, draining) = oneshot::channel();
    let limit = settings.pings.limit();
    let times = KeepaliveTimes::new(config.keepalive_time, config.keepalive_timeout);
    let keepalive = Keepalive::new(ping, received.clone(), streams, (times, limit), deadline);
    let driver = Driver {
        driving,
        keepalive,
        connection: Arc::downgrade(&connection),
        answered: Some(answered),
        drains: Some(drains),
        received,
        peer: connection.peer.clone(),
        pings: settings.pings.clone(),
        limit,
    };
    let mut established = Established { connection, draining, driver: tokio::spawn(driver.run()) };
    match first_answer.await {
        Ok(()) => {
            // The peer's stream limit arrives before its acknowledgement.
            established.connection.refresh_capacity();
            Ok(established)
        }
        // The driver ended before the acknowledgement and has the reason.
        Err(_) => Err(match (&mut established.driver).await {
            Ok(Closed::KeepaliveTimeout(_)) => ConnectError::TimedOut(timeout),
            Ok(closed) => ConnectError::Closed(closed),
            Err(_) => ConnectError::Closed(Closed::Stopped),
        }),
    }
}

/// Owns the socket: reads and writes frames until the connection ends.
struct Driver {
    driving: h2::client::Connection<ObservedIo<Socket>, Bytes>,
    keepalive: Keepalive,
    connection: Weak<Connection>,
    answered: Option<oneshot::Sender<()>>,
    drains: Option<oneshot::Sender<Option<Goaway>>>,
    received: Arc<Received>,
    peer: Peer,
    pings: Arc<InstancePings>,
    limit: PingLimit,
}

impl Driver {
    async fn run(mut self) -> Closed {
        let closed = poll_fn(|cx| self.poll(cx)).await;
        let Some(goaway) = self.received.goaway() else { return closed };
        self.pings.closed(&self.peer, &goaway, self.limit);
        // The end of the socket is a consequence of the GOAWAY.
        if goaway.is_graceful() { closed } else { Closed::Goaway(goaway) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        if let Poll::Ready(result) = Pin::new(&mut self.driving).poll(cx) {
            return Poll::Ready(result.map_or_else(Closed::Broken, |()| Closed::Finished));
        }
        match self.keepalive.poll(cx) {
            Poll::Ready(waited) => return Poll::Ready(Closed::KeepaliveTimeout(waited)),
            Poll::Pending if self.keepalive.is_established() => {
                if let Some(answered) = self.answered.take() {
                    // Without a receiver the connection is no longer needed and
                    // ends when its handle is dropped.
                    let _ = answered.send(());
                }
            }
            Poll::Pending => {}
        }
        if self.drains.is_some()
            && self.connection.upgrade().is_some_and(|connection| connection.is_draining(cx))
            && let Some(drains) = self.drains.take()
        {
            let goaway = self.received.goaway();
            // The next connection begins before this one ends.
            if let Some(goaway) = &goaway {
                self.pings.closed(&self.peer, goaway, self.limit);
            }
            let _ = drains.send(goaway);
        }
        Poll::Pending
    }
}
