//! One HTTP/2 connection to one instance.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    connect::{Connector, Socket},
    failure::Peer,
};
use crate::{
    ChannelConfig,
    balance::Load,
    health::{Ended, FAILURES, Record},
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
    pub(super) load: Arc<Load>,
    record: Arc<Record>,
    send: SendRequest<Bytes>,
}

impl Connection {
    /// Begins a stream.
    pub(super) fn send(
        &self,
        head: http::Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        // A clone has no pending stream of its own, so that `h2` queues the
        // request rather than refusing it when the peer's stream limit is
        // reached; the deadline bounds the wait.
        self.send.clone().send_request(head, end)
    }

    /// Takes note of how an attempt on it ended.
    pub(super) fn observe(&self, ended: Ended) {
        self.record.observe(ended, FAILURES);
    }

    /// Whether the peer takes no more streams: it sent GOAWAY.
    fn is_draining(&self, cx: &mut Context<'_>) -> bool {
        matches!(self.send.clone().poll_ready(cx), Poll::Ready(Err(_)))
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("the peer closed the connection")]
    Finished,
    #[error("the connection broke: {0}")]
    Broken(h2::Error),
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    #[error("its task ended")]
    Stopped,
}

impl Closed {
    /// Whether the peer said that it is asked for signs of life too often.
    pub(super) fn too_many_pings(&self) -> bool {
        matches!(self, Self::Broken(e) if e.is_remote() && e.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
    }
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
    /// Completes when the peer asks for no more streams, or with the end.
    pub(super) draining: oneshot::Receiver<()>,
    pub(super) driver: JoinHandle<Closed>,
}

/// Connects and waits until the peer has answered a ping, so that a socket
/// that merely accepts (a stopped process, a half-open proxy) is not taken
/// for an instance that serves.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn connect(
    peer: Peer,
    (load, record): (Arc<Load>, Arc<Record>),
    connector: &Connector,
    config: &ChannelConfig,
    keepalive_time: Duration,
) -> Result<Established, ConnectError> {
    let limit = config.connect_timeout;
    let deadline = Instant::now() + limit;
    let within = |result: Result<_, _>| result.unwrap_or(Err(ConnectError::TimedOut(limit)));
    let opening = async { Ok(connector.open(&peer.address).await?) };
    let socket = within(tokio::time::timeout_at(deadline, opening).await)?;

    let alive = Arc::new(AtomicBool::new(false));
    let io = Observed { io: socket, alive: alive.clone() };
    let (send, mut driving) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(ConnectError::Handshake)?;
    let ping = driving.ping_pong();
    let connection = Arc::new(Connection { peer, load, record, send });

    let (answered, first_answer) = oneshot::channel();
    let (drains, draining) = oneshot::channel();
    let keepalive = Keepalive::new(ping, alive, keepalive_time, config.keepalive_timeout, deadline);
    let driver = Driver {
        driving,
        keepalive,
        connection: Arc::downgrade(&connection),
        answered: Some(answered),
        drains: Some(drains),
    };
    let mut established = Established { connection, draining, driver: tokio::spawn(driver.run()) };
    match first_answer.await {
        Ok(()) => Ok(established),
        // The driver ended before the first answer: it says why.
        Err(_) => Err(match (&mut established.driver).await {
            Ok(Closed::Silent(_)) => ConnectError::TimedOut(limit),
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
    drains: Option<oneshot::Sender<()>>,
}

impl Driver {
    async fn run(mut self) -> Closed {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        if let Poll::Ready(result) = Pin::new(&mut self.driving).poll(cx) {
            return Poll::Ready(result.map_or_else(Closed::Broken, |()| Closed::Finished));
        }
        match self.keepalive.poll(cx) {
            Poll::Ready(silence) => return Poll::Ready(Closed::Silent(silence)),
            Poll::Pending if self.keepalive.answered => {
                if let Some(answered) = self.answered.take() {
                    // Nobody waits any more: the connection is not wanted, and
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
            let _ = drains.send(());
        }
        Poll::Pending
    }
}

/// Asks a connection on which nothing arrives whether it is alive.
///
/// Source: gRFC A8 (client-side keepalive). Unlike there, an idle connection
/// is asked too: it stands in the ready set, and the next call should not be
/// the one to find out.
struct Keepalive {
    ping: Option<h2::PingPong>,
    /// Set by every byte that arrives.
    alive: Arc<AtomicBool>,
    time: Duration,
    timeout: Duration,
    asked: bool,
    /// Whether the peer has ever answered.
    answered: bool,
    timer: Pin<Box<Sleep>>,
}

impl Keepalive {
    /// Asks at once; the first answer has until `first`.
    fn new(
        mut ping: Option<h2::PingPong>,
        alive: Arc<AtomicBool>,
        time: Duration,
        timeout: Duration,
        first: Instant,
    ) -> Self {
        if let Some(ping) = &mut ping {
            // Fails only when a ping is already under way.
            let _ = ping.send_ping(h2::Ping::opaque());
        }
        Self { ping, alive, time, timeout, asked: true, answered: false, timer: Box::pin(sleep_until(first)) }
    }

    /// Ready when the peer is silent for too long; with how long that is.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(ping) = &mut self.ping else { return Poll::Pending };
        loop {
            if self.asked && ping.poll_pong(cx).is_ready() {
                self.asked = false;
                self.answered = true;
                self.timer.as_mut().reset(Instant::now() + self.time);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let heard = self.alive.swap(false, Relaxed);
            if self.asked && !(heard && self.answered) {
                return Poll::Ready(self.time + self.timeout);
            }
            if heard || ping.send_ping(h2::Ping::opaque()).is_err() {
                self.timer.as_mut().reset(Instant::now() + self.time);
            } else {
                self.asked = true;
                self.timer.as_mut().reset(Instant::now() + self.timeout);
            }
        }
    }
}

/// A socket that remembers whether anything arrived.
struct Observed<T> {
    io: T,
    alive: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.alive.store(true, Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
