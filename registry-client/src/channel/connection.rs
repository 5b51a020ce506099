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
    failure::Peer,
    interim::FinalResponse,
    keepalive::{Goaway, InstancePings, Keepalive, KeepaliveTimes, Observed, PingLimit, Received, Streams},
};
use crate::{
    ChannelConfig,
    balance::Load,
    code::Code,
    health::{Probe, Record},
    outcome::{Cause, Outcome},
};

/// What a stream may send ahead of its reader. Large enough that a fast link
/// is not throttled by round trips.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// The largest response head or trailers taken, in bytes; bounds what a
/// hostile server can make us hold.
const MAX_HEADER_LIST: u32 = 64 << 10;

/// An established connection: the peer has answered on it. Closes by itself
/// when dropped and its last stream has ended.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    load: Arc<Load>,
    streams: Arc<Streams>,
    observer: Observer,
    send: SendRequest<Bytes>,
    /// How many streams the peer allows at a time, as last seen.
    most: Arc<AtomicU32>,
    /// Whether the peer has answered any call with something else than
    /// UNIMPLEMENTED.
    serves: Arc<AtomicBool>,
}

/// Who is told how attempts end.
#[derive(Clone, Debug, Default)]
pub(super) enum Observer {
    /// Nobody wants to know.
    #[default]
    Nobody,
    Record(Arc<Record>),
    /// There is one attempt only, which decides whether the instance returns.
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
        // A clone has no pending stream of its own, so that `h2` queues the
        // request rather than refusing it when the peer's stream limit is
        // reached; the deadline bounds the wait.
        let (response, request) = self.send.clone().send_request(head, end)?;
        Ok((FinalResponse::new(response), request))
    }

    /// Counts a request as under way; how many there ever were before it.
    pub(super) fn begin(&self) -> u32 {
        self.load.begin();
        self.streams.begin()
    }

    /// Counts it no more.
    pub(super) fn end(&self) {
        self.streams.end();
        self.load.end();
    }

    /// Records how an attempt on it ended.
    pub(super) fn observe(&self, outcome: Outcome) {
        match &self.observer {
            // All its streams end with a connection: that is one fault, and the
            // pool notices it.
            Observer::Record(_)
                if matches!(outcome.cause, Cause::ConnectionLost | Cause::Refused) && self.is_closed() => {}
            Observer::Record(record) => record.observe(outcome),
            Observer::Probe(probe) => probe.observe(outcome),
            Observer::Nobody => {}
        }
    }

    /// A stream of messages has begun on it, which is all that a probe can wait
    /// for.
    pub(super) fn stream_began(&self) {
        if let Observer::Probe(probe) = &self.observer {
            probe.observe(Outcome::status(Code::OK));
        }
    }

    /// Whether the peer has answered any call with something else than
    /// UNIMPLEMENTED.
    pub(super) fn serves(&self) -> bool {
        self.serves.load(Relaxed)
    }

    /// The peer has answered a call with something else than UNIMPLEMENTED.
    pub(super) fn set_serves(&self) {
        // A look costs other cores nothing, a store does.
        if !self.serves() {
            self.serves.store(true, Relaxed);
        }
    }

    /// The same connection for one call that `probe` observes.
    pub(super) fn probing(&self, probe: Arc<Probe>) -> Self {
        Self {
            peer: self.peer.clone(),
            load: self.load.clone(),
            streams: self.streams.clone(),
            observer: Observer::Probe(probe),
            send: self.send.clone(),
            most: self.most.clone(),
            serves: self.serves.clone(),
        }
    }

    /// Whether another call would be sent at once, and not wait for one to end.
    pub(super) fn has_room(&self) -> bool {
        self.streams.open() < self.most.load(Relaxed)
    }

    /// Looks again how many streams the peer allows, and whether there is room.
    pub(super) fn look_for_room(&self) -> bool {
        self.most.store(calls(self.send.current_max_send_streams()), Relaxed);
        self.has_room()
    }

    /// Whether the peer allows a stream that stays open beside the calls.
    pub(super) fn has_a_stream_to_spare(&self) -> bool {
        self.send.current_max_send_streams() > 1
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Whether it takes no more streams: it ended, or the peer sent GOAWAY.
    fn is_closed(&self) -> bool {
        self.is_draining(&mut Context::from_waker(Waker::noop()))
    }

    /// Whether the peer takes no more streams: it sent GOAWAY.
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

/// How many calls fit on a connection that allows so many streams: one is left
/// for the watch of the peer's health.
fn calls(streams: usize) -> u32 {
    u32::try_from(streams).unwrap_or(u32::MAX).saturating_sub(1).max(1)
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("the peer closed the connection")]
    Finished,
    #[error("the peer closed the connection: {0}")]
    Goaway(Goaway),
    #[error("the connection broke: {0}")]
    Broken(h2::Error),
    #[error("no answer to a ping within {0:?}")]
    Silent(Duration),
    #[error("its task ended")]
    Stopped,
}

/// Why a connection could not be established.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no HTTP/2 there: {0}")]
    Handshake(h2::Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Closed(Closed),
}

/// A connection with the task that drives it.
pub(super) struct Established {
    pub(super) connection: Arc<Connection>,
    /// Completes when the peer asks for no more streams, with its GOAWAY, or
    /// with the end.
    pub(super) draining: oneshot::Receiver<Option<Goaway>>,
    pub(super) driver: JoinHandle<Closed>,
}

/// How connections to an instance are made. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnectSettings {
    pub(super) connector: Connector,
    pub(super) config: ChannelConfig,
    pub(super) pings: Arc<InstancePings>,
}

/// Connects and waits until the peer has acknowledged our settings, so that a
/// socket that merely accepts (a stopped process, a half-open proxy) is not
/// taken for an instance that serves.
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
    let io = Observed::new(socket, received.clone());
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
        most: Arc::default(),
        serves: Arc::default(),
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
            // What the peer allows comes before its first answer.
            established.connection.look_for_room();
            Ok(established)
        }
        // The driver ended before the first answer: it says why.
        Err(_) => Err(match (&mut established.driver).await {
            Ok(Closed::Silent(_)) => ConnectError::TimedOut(timeout),
            Ok(closed) => ConnectError::Closed(closed),
            Err(_) => ConnectError::Closed(Closed::Stopped),
        }),
    }
}

/// Owns the socket: reads and writes frames until the connection ends.
struct Driver {
    driving: h2::client::Connection<Observed<Socket>, Bytes>,
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
        // Whatever happened to the socket then is a consequence.
        if goaway.is_graceful() { closed } else { Closed::Goaway(goaway) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        if let Poll::Ready(result) = Pin::new(&mut self.driving).poll(cx) {
            return Poll::Ready(result.map_or_else(Closed::Broken, |()| Closed::Finished));
        }
        match self.keepalive.poll(cx) {
            Poll::Ready(waited) => return Poll::Ready(Closed::Silent(waited)),
            Poll::Pending if self.keepalive.is_established() => {
                if let Some(answered) = self.answered.take() {
                    // Without a receiver the connection is not wanted any more,
                    // and ends when its handle is dropped.
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
            // The successor is made before this connection ends.
            if let Some(goaway) = &goaway {
                self.pings.closed(&self.peer, goaway, self.limit);
            }
            let _ = drains.send(goaway);
        }
        Poll::Pending
    }
}
