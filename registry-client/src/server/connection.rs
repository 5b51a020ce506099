//! One peer's connection, from its first byte to its last.

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
    admission::{Admission, Admitted},
    age::Age,
    content_type::GrpcOnly,
    deadline::Deadline,
    gzip::Gzip,
    panic::CatchPanic,
    peers::{PeerConnection, Resource},
    receive::Receive,
    screen::Screen,
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

use keepalive::Keepalive;
use request::RequestBody;
use unread::Unread;

/// By how much HTTP/2's own limit on a request's headers is above ours: what
/// lies between is refused with a status that says why, what is above it with a
/// bare HTTP 431.
const HTTP_HEADROOM: u32 = 4;

/// How many bytes of a request may arrive before its handler reads them, on one
/// stream and on all streams of a connection together. Large enough that a link
/// within a datacenter is not throttled by round trips; they count as the peer's
/// once it has many connections (`unread`).
const RECEIVE_WINDOW: u32 = 256 << 10;

/// How many bytes of a response `h2` holds for a stream whose peer is slower
/// than its handler.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// How many calls begin on a connection before it gives way to the others.
const CALLS_IN_A_ROW: usize = 16;

/// How long a peer has to understand that its connection is to close.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// The services of a server, behind its limits.
pub(super) type Services = Receive<Admitted<Gzip<Screen<Routes>>>>;

/// How every connection of a server is served. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    http: server::Builder,
    service: CatchPanic<GrpcOnly<Deadline<Services>>>,
    admission: Admission,
    handshake: Duration,
    send_timeout: Duration,
    idle: Option<Duration>,
    keepalive: Keepalive,
    age: Age,
    drain: Drain,
    cut: CancellationToken,
    /// True if an authority was refused already.
    refused: Arc<Once>,
}

impl Connections {
    /// `drain` lets each connection finish its calls and end; `cut` ends it at
    /// once.
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
            .max_header_list_size(config.max_header_list_size.saturating_mul(HTTP_HEADROOM))
            .max_pending_accept_reset_streams(config.max_pending_resets);
        let service = CatchPanic::new(GrpcOnly::new(Deadline::new(service), config.max_header_list_size));
        Self {
            http,
            service,
            admission,
            handshake: config.handshake_timeout,
            send_timeout: config.send_timeout,
            idle: config.max_connection_idle,
            keepalive: Keepalive::new(config),
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
            ended = shares.in_turn(self.converse(stream, &peer, &shares)) => ended,
            () = cut.cancelled() => return,
        };
        if let Err(why) = ended {
            debug!(peer = ?peer.remote_addr, %why, "connection ended: {why}");
        }
    }

    async fn converse(
        self,
        stream: TcpStream,
        peer: &TcpConnectInfo,
        shares: &Arc<PeerConnection>,
    ) -> Result<(), Ended> {
        let (activity, writable) = (Activity::default(), Writable::default());
        let observed = (activity.clone(), writable.clone());
        let socket = Socket::new(stream, self.handshake, self.drain.clone(), self.refused.clone(), observed);
        let mut connection: server::Connection<_, Bytes> = tokio::select! {
            connection = self.http.handshake(socket) => connection?,
            () = shares.evicted() => return Err(Ended::Left(Left::Evicted)),
        };
        // Unconstrained, so that a connection that has used up its task's budget by
        // what it is sent does not outlive them.
        let mut silent = pin!(unconstrained(self.keepalive.silence(connection.ping_pong(), activity)));
        let mut leaving = pin!(unconstrained(self.leaving(shares)));
        let (mut has_left, mut calls) = (false, 0);
        let mut unread = Unread::new(shares);
        let mut grace_over = pin!(unconstrained(self.grace_over(Left::Draining)));
        loop {
            tokio::select! {
                // In this order: where calls come in, nothing else is looked at.
                biased;
                accepted = connection.accept() => match accepted {
                    Some(accepted) => {
                        let (request, respond) = accepted?;
                        let request = request.map(|mut body| RequestBody::new(unread.follow(&mut body), body));
                        self.begin(request, respond, (peer, shares, &writable))?;
                        calls += 1;
                        if calls % CALLS_IN_A_ROW == 0 {
                            yield_now().await;
                        }
                    }
                    None => return Ok(()),
                },
                why = &mut leaving, if !has_left => {
                    // GOAWAY: calls under way finish, new ones go elsewhere.
                    connection.graceful_shutdown();
                    has_left = true;
                    grace_over.set(unconstrained(self.grace_over(why)));
                }
                why = &mut grace_over, if has_left => return Err(Ended::Left(why)),
                () = &mut silent => return Err(Ended::Silent),
                () = unread.above_share() => return Err(Ended::Unread),
            }
        }
    }

    /// Completes when a connection is to take no more calls.
    async fn leaving(&self, shares: &PeerConnection) -> Left {
        let idle = async {
            match self.idle {
                Some(limit) => shares.idle(limit).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.drain.draining() => Left::Draining,
            () = self.age.reached() => Left::Old,
            () = idle => Left::Idle,
            () = shares.evicted() => Left::Evicted,
        }
    }

    /// Completes when one that takes no more calls is closed, whatever it still
    /// carries.
    async fn grace_over(&self, left: Left) -> Left {
        match left {
            // The server cuts off what takes too long.
            Left::Draining => pending().await,
            Left::Old => self.age.grace_over().await,
            Left::Idle | Left::Evicted => sleep(GOAWAY_TIMEOUT).await,
        }
        left
    }

    /// Has the services answer a request, in a task of its own; refuses one for
    /// which there is no room, or that is above its peer's share.
    ///
    /// # Errors
    /// When the peer does not take the refusal: `h2` would hold it.
    fn begin(
        &self,
        request: Request<RequestBody>,
        mut respond: server::SendResponse<Bytes>,
        (peer, shares, writable): (&TcpConnectInfo, &Arc<PeerConnection>, &Writable),
    ) -> Result<(), Ended> {
        let taken = || if writable.now() { Ok(()) } else { Err(Ended::Deaf) };
        let (head, mut body) = request.into_parts();
        let head = Request::from_parts(head, ());
        if let Some(rejection) = self.admission.reject(&head, shares.address(), || body.is_here()) {
            // Fails only where nobody waits for it any more.
            let _ = respond.send_response(rejection, true);
            return taken();
        }
        let Some(stream) = shares.claim(Resource::Streams, 1) else {
            respond.send_reset(Reason::REFUSED_STREAM);
            return taken();
        };
        let mut request = head.map(|()| Body::new(body));
        // Tells the handlers who called.
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(shares.clone());
        let (mut service, send_timeout) = (self.service.clone(), self.send_timeout);
        let (shares, writable) = (shares.clone(), writable.clone());
        tokio::spawn(shares.clone().in_turn(async move {
            let Ok(()) = poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut service, cx)).await;
            exchange::run(service.call(request), respond, (&shares, &writable), send_timeout).await;
            drop(stream);
        }));
        Ok(())
    }
}

/// Why a connection did not end as its peer wished.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Http(#[from] h2::Error),
    #[error("the peer did not answer a ping in time")]
    Silent,
    #[error("its peer sends more calls than its share (max_streams) and reads no answers")]
    Deaf,
    #[error(
        "more of what its peer has sent waits to be read than the server holds for it (max_buffered_bytes)"
    )]
    Unread,
    #[error("calls were still under way: {0:?}")]
    Left(Left),
}

/// Why a connection takes no more calls.
#[derive(Clone, Copy, Debug)]
enum Left {
    Draining,
    Old,
    Idle,
    Evicted,
}
