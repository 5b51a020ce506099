//! The HTTP/2 connection of a peer.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{Arc, Once},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, server};
use http::Request;
use tokio::{
    net::TcpStream,
    task::{coop::unconstrained, yield_now},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    service::Routes,
    transport::server::{Connected, TcpConnectInfo},
};
use tower_service::Service;
use tracing::debug;

use super::{
    Drain,
    accept::Accepted,
    admission::{Admission, AdmissionService},
    age::Age,
    content_type::GrpcOnly,
    correct_status::CorrectStatus,
    deadline::EnforceDeadline,
    gzip::Gzip,
    panic::CatchPanic,
    peers::{PeerConnection, Resource},
    receive::Receive,
    socket::Socket,
};
use crate::ServerConfig;

mod exchange;
mod keepalive;
mod request;
mod unread;
mod writable;

pub(super) use keepalive::Activity;
pub(super) use writable::Writable;

use keepalive::ServerKeepalive;
use request::IncomingBody;
use unread::UnreadRequests;

/// The ratio of HTTP/2's own limit on a request's headers to ours: headers in
/// between are rejected with a status, larger ones with a bare HTTP 431.
const HEADER_LIMIT_FACTOR: u32 = 4;

/// The receive window in bytes, of one stream and of all streams of a
/// connection together. Large enough that round trips within a datacenter do
/// not throttle it; unread bytes count towards the peer's share once it has
/// many connections (`unread`).
const RECEIVE_WINDOW: u32 = 256 << 10;

/// The most bytes of a response that `h2` buffers for a stream whose peer is
/// slower than its handler.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// The calls that begin on a connection before it yields to the others, and those
/// that are rejected above a method's limit, which takes half the time.
const MAX_CALLS_PER_TURN: usize = 16;
const MAX_REJECTIONS_PER_TURN: usize = 32;

/// The time between GOAWAY and closing a connection.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// The services of a server, behind its limits.
pub(super) type Services = Receive<AdmissionService<Gzip<CorrectStatus<Routes>>>>;

/// The HTTP/2 server of all connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct ConnectionServer {
    http: server::Builder,
    service: CatchPanic<GrpcOnly<EnforceDeadline<Services>>>,
    admission: Admission,
    handshake_timeout: Duration,
    send_timeout: Duration,
    idle: Option<Duration>,
    keepalive: ServerKeepalive,
    age: Age,
    drain: Drain,
    cut: CancellationToken,
    /// Set once an invalid authority was logged.
    refused: Arc<Once>,
}

impl ConnectionServer {
    /// A server with these services; `drain` lets each connection finish its
    /// calls, `cut` closes it at once.
    pub(super) fn new(
        (service, admission): (Services, Admission),
        config: &ServerConfig,
        drain: Drain,
        cut: CancellationToken,
    ) -> Self {
        let mut http = server::Builder::new();
        http.initial_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .max_concurrent_streams(config.max_concurrent_streams)
            .max_header_list_size(config.max_header_list_size.saturating_mul(HEADER_LIMIT_FACTOR))
            .max_pending_accept_reset_streams(config.max_pending_resets);
        let service =
            CatchPanic::new(GrpcOnly::new(EnforceDeadline::new(service), config.max_header_list_size));
        Self {
            http,
            service,
            admission,
            handshake_timeout: config.handshake_timeout,
            send_timeout: config.send_timeout,
            idle: config.max_connection_idle,
            keepalive: ServerKeepalive::new(config),
            age: Age::new(config),
            drain,
            cut,
            refused: Arc::new(Once::new()),
        }
    }

    /// Serves one connection until it ends.
    pub(super) async fn serve(self, accepted: Accepted) {
        let Accepted { stream, connection: shares, share: _share } = accepted;
        let cut = self.cut.clone();
        let peer = stream.connect_info();
        let ended = tokio::select! {
            biased;
            ended = shares.in_turn(self.serve_http2(stream, &peer, &shares)) => ended,
            () = cut.cancelled() => return,
        };
        if let Err(why) = ended {
            debug!(peer = ?peer.remote_addr, %why, "connection ended: {why}");
        }
    }

    async fn serve_http2(
        self,
        stream: TcpStream,
        peer: &TcpConnectInfo,
        shares: &Arc<PeerConnection>,
    ) -> Result<(), ConnectionError> {
        let (activity, writable) = (Activity::default(), Writable::default());
        let observed = (activity.clone(), writable.clone());
        let socket =
            Socket::new(stream, self.handshake_timeout, self.drain.clone(), self.refused.clone(), observed);
        let mut connection: server::Connection<_, Bytes> = tokio::select! {
            connection = self.http.handshake(socket) => connection?,
            () = shares.evicted() => return Err(ConnectionError::CutOff(CloseReason::Evicted)),
        };
        // Unconstrained, so that these timers fire even if incoming data uses
        // up the task's budget.
        let mut silent = pin!(unconstrained(self.keepalive.silence(connection.ping_pong(), activity)));
        let mut close_reason = pin!(unconstrained(self.close_reason(shares)));
        let (mut is_closing, mut turn) = (false, 0);
        let mut unread = UnreadRequests::new(shares);
        let mut grace_over = pin!(unconstrained(self.grace_over(CloseReason::Draining)));
        loop {
            tokio::select! {
                // In this order: incoming calls come first.
                biased;
                accepted = connection.accept() => match accepted {
                    Some(accepted) => {
                        let (request, respond) = accepted?;
                        let request = request.map(|mut body| IncomingBody::new(unread.track(&mut body), body));
                        let has_begun = self.begin(request, respond, (peer, shares, &writable))?;
                        turn += if has_begun { MAX_REJECTIONS_PER_TURN / MAX_CALLS_PER_TURN } else { 1 };
                        if turn >= MAX_REJECTIONS_PER_TURN {
                            turn = 0;
                            yield_now().await;
                        }
                    }
                    None => return Ok(()),
                },
                why = &mut close_reason, if !is_closing => {
                    // GOAWAY: calls in flight finish, new ones go elsewhere.
                    connection.graceful_shutdown();
                    is_closing = true;
                    grace_over.set(unconstrained(self.grace_over(why)));
                }
                why = &mut grace_over, if is_closing => return Err(ConnectionError::CutOff(why)),
                () = &mut silent => return Err(ConnectionError::KeepaliveTimeout),
                () = unread.above_share() => return Err(ConnectionError::UnreadRequests),
                () = unconstrained(sleep(self.send_timeout)), if writable.is_paused() => {
                    if writable.is_paused() {
                        return Err(ConnectionError::UnreadResponses);
                    }
                }
            }
        }
    }

    /// Completes when the connection is to close, with the reason.
    async fn close_reason(&self, shares: &PeerConnection) -> CloseReason {
        let idle = async {
            match self.idle {
                Some(limit) => shares.idle(limit).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.drain.draining() => CloseReason::Draining,
            () = self.age.reached() => CloseReason::MaxAge,
            () = idle => CloseReason::Idle,
            () = shares.evicted() => CloseReason::Evicted,
        }
    }

    /// Completes when the grace period of a closing connection is over.
    async fn grace_over(&self, reason: CloseReason) -> CloseReason {
        match reason {
            // The server closes connections that take too long.
            CloseReason::Draining => pending().await,
            CloseReason::MaxAge => self.age.grace_over().await,
            CloseReason::Idle | CloseReason::Evicted => sleep(GOAWAY_TIMEOUT).await,
        }
        reason
    }

    /// Starts a task for a request; rejects one above its method's limit or above
    /// the peer's share. Returns false for a method's limit.
    ///
    /// # Errors
    /// When a peer above its share does not read the rejection, which `h2` would
    /// have to buffer.
    fn begin(
        &self,
        request: Request<IncomingBody>,
        mut respond: server::SendResponse<Bytes>,
        (peer, shares, writable): (&TcpConnectInfo, &Arc<PeerConnection>, &Writable),
    ) -> Result<bool, ConnectionError> {
        let (head, mut body) = request.into_parts();
        let head = Request::from_parts(head, ());
        if let Some(rejection) = self.admission.reject(&head, shares.address(), || body.is_complete()) {
            // Fails only if the stream was reset.
            let _ = respond.send_response(rejection, true);
            writable.pause_if_full();
            return Ok(false);
        }
        let Some(stream) = shares.claim(Resource::Streams, 1) else {
            respond.send_reset(Reason::REFUSED_STREAM);
            return if writable.now() { Ok(true) } else { Err(ConnectionError::UnreadResponses) };
        };
        let mut request = head.map(|()| Body::new(body));
        // For handlers that need the address of the caller.
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(shares.clone());
        let (mut service, send_timeout) = (self.service.clone(), self.send_timeout);
        let (shares, writable) = (shares.clone(), writable.clone());
        tokio::spawn(shares.clone().in_turn(async move {
            let Ok(()) = poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut service, cx)).await;
            exchange::run(service.call(request), respond, (&shares, &writable), send_timeout).await;
            drop(stream);
        }));
        Ok(true)
    }
}

/// The reason for which the server closed a connection.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("{0}")]
    Http(#[from] h2::Error),
    #[error("the peer did not acknowledge a ping in time")]
    KeepaliveTimeout,
    #[error(
        "the peer sends more calls than its share (max_streams) or than the server admits, and reads no responses"
    )]
    UnreadResponses,
    #[error("the peer's requests have more unread bytes than its share (max_buffered_bytes)")]
    UnreadRequests,
    #[error("closed with calls in flight: {0:?}")]
    CutOff(CloseReason),
}

/// The reason for which a connection takes no more calls.
#[derive(Clone, Copy, Debug)]
enum CloseReason {
    Draining,
    MaxAge,
    Idle,
    Evicted,
}
