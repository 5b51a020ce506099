//! A faulty gRPC service.

use std::{
    collections::VecDeque,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    HealthReply, Io, Reply,
    health::{self, Current},
    stream::{self, StreamEnd},
};

/// The number of the newest request heads that are kept.
const MAX_HEADS: usize = 1024;

/// A gRPC service on plain HTTP/2, whose behaviour a test controls, including
/// violations of gRPC. Cheap to clone; clones are one service.
/// [`FaultyServer`](super::FaultyServer) listens for it on TCP.
#[derive(Clone)]
pub struct FaultyService {
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<Arc<Script>>,
    http2: Mutex<Http2>,
    health: Current,
    heads: Mutex<VecDeque<Request<()>>>,
    counts: watch::Sender<Counts>,
    going_away: Arc<Notify>,
    closing: Arc<Notify>,
}

type Script = dyn Fn(u64) -> Reply + Send + Sync;

/// The counts of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests, without health checks.
    pub requests: u64,
    /// Health checks (`Watch` and `Check`).
    pub health: u64,
    /// Streams that the client reset.
    pub resets: u64,
    /// Connections.
    pub connections: u64,
    /// Open connections.
    pub open: u64,
}

/// The HTTP/2 settings of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Http2 {
    /// `MAX_CONCURRENT_STREAMS`; 1,000 unless set.
    pub streams: u32,
    /// The receive window of a stream in bytes; 65,535 unless set, the
    /// protocol's default.
    pub stream_window: u32,
    /// The receive window of a connection in bytes; 65,535 unless set, and at
    /// least that, because the protocol only lets it grow.
    pub connection_window: u32,
    /// The largest accepted frame, 16,384 to 16,777,215 bytes; 16,384 unless
    /// set.
    pub frame: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { streams: 1_000, stream_window: 65_535, connection_window: 65_535, frame: 16_384 }
    }
}

impl From<Reply> for FaultyService {
    fn from(reply: Reply) -> Self {
        Self::scripted(move |_| reply.clone())
    }
}

impl FaultyService {
    /// A service that replies to the `n`th request, counted from 0, with
    /// `script(n)`.
    pub fn scripted(script: impl Fn(u64) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Shared {
            script: Mutex::new(Arc::new(script)),
            http2: Mutex::default(),
            health: Current::default(),
            heads: Mutex::default(),
            counts: watch::Sender::default(),
            going_away: Arc::default(),
            closing: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the reply to new requests; those in progress are not affected.
    pub fn set(&self, reply: Reply) {
        self.set_script(move |_| reply.clone());
    }

    /// Sets the reply to the `n`th request to `script(n)`, counted from 0 at
    /// the first request ever.
    pub fn set_script(&self, script: impl Fn(u64) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// Replies to this share of the requests, 0 to 1 and spread evenly, with
    /// `reply`, and echoes the others.
    pub fn set_share(&self, share: f64, reply: Reply) {
        let before = move |n: u64| (n as f64 * share).floor();
        self.set_script(move |n| if before(n + 1) > before(n) { reply.clone() } else { Reply::Echo });
    }

    /// Sets the health, which open `Watch` streams get at once.
    pub fn set_health(&self, health: HealthReply) {
        self.shared.health.set(health);
    }

    /// Changes the HTTP/2 settings of new connections.
    pub fn set_http2(&self, change: impl FnOnce(&mut Http2)) {
        change(&mut lock(&self.shared.http2));
    }

    /// Sends GOAWAY on every connection, after which open streams finish.
    pub fn go_away(&self) {
        self.shared.going_away.notify_waiters();
    }

    /// Closes every connection, with its open streams.
    pub fn close(&self) {
        self.shared.closing.notify_waiters();
    }

    /// The current counts.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until `reached` holds; to be bounded by a timeout.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing changes.
    pub async fn until(&self, reached: impl FnMut(&Counts) -> bool) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.shared.counts.subscribe().wait_for(reached).await;
    }

    /// The heads of the newest 1,024 requests, in order.
    #[must_use]
    pub fn heads(&self) -> Vec<Request<()>> {
        lock(&self.shared.heads).iter().cloned().collect()
    }

    /// Serves one connection until it ends; for networks that are not TCP.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn serve(&self, io: impl Io) {
        let _open = OpenConnection::on(&self.shared);
        let mut going_away = pin!(self.shared.going_away.clone().notified_owned());
        let mut closing = pin!(self.shared.closing.clone().notified_owned());
        // Only what is open when it is said goes away.
        going_away.as_mut().enable();
        closing.as_mut().enable();
        let serving = async {
            let http2 = *lock(&self.shared.http2);
            let Ok(mut connection) = http2.builder().handshake::<_, Bytes>(io).await else { return };
            let mut streams = JoinSet::new();
            let mut leaving = false;
            loop {
                tokio::select! {
                    biased;
                    () = &mut going_away, if !leaving => {
                        leaving = true;
                        connection.graceful_shutdown();
                    }
                    Some(_) = streams.join_next() => {}
                    request = connection.accept() => {
                        let Some(Ok((request, answer))) = request else { return };
                        match self.begin(request, answer, &mut streams) {
                            NextStep::Serve => {}
                            NextStep::GoAway => connection.graceful_shutdown(),
                            NextStep::Close => return,
                        }
                    }
                }
            }
        };
        // In a fixed order, so that a simulation can be repeated.
        tokio::select! {
            biased;
            () = closing => {}
            () = serving => {}
        }
    }

    /// Starts to respond to a request.
    fn begin(
        &self,
        request: Request<RecvStream>,
        answer: SendResponse<Bytes>,
        streams: &mut JoinSet<()>,
    ) -> NextStep {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if matches!(path, health::WATCH | health::CHECK) {
            self.count(|counts| counts.health += 1);
            let (shared, once) = (self.shared.clone(), path == health::CHECK);
            streams.spawn(async move { shared.health.respond(once, answer).await });
            return NextStep::Serve;
        }
        let n = self.counts().requests;
        self.count(|counts| counts.requests += 1);
        let mut heads = lock(&self.shared.heads);
        if heads.len() == MAX_HEADS {
            heads.pop_front();
        }
        heads.push_back(Request::from_parts(head, ()));
        drop(heads);

        let script = lock(&self.shared.script).clone();
        let reply = script(n);
        let after = match reply {
            Reply::Close => return NextStep::Close,
            Reply::GoAway => NextStep::GoAway,
            _ => NextStep::Serve,
        };
        let service = self.clone();
        streams.spawn(async move {
            if stream::respond_to(reply, body, answer).await == StreamEnd::Reset {
                service.count(|counts| counts.resets += 1);
            }
        });
        after
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.shared.counts.send_modify(change);
    }
}

impl fmt::Debug for FaultyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyService").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// The next step of a connection after a request.
enum NextStep {
    Serve,
    GoAway,
    Close,
}

impl Http2 {
    fn builder(self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.streams)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window.max(65_535))
            .max_frame_size(self.frame.clamp(16_384, (1 << 24) - 1));
        builder
    }
}

/// Counts a connection while it is open.
struct OpenConnection(Arc<Shared>);

impl OpenConnection {
    fn on(shared: &Arc<Shared>) -> Self {
        shared.counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
        });
        Self(shared.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

/// A poisoned value is valid: every change is a single step.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
