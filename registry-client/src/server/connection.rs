//! One peer's connection, from its first byte to its last.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Once},
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::server::{Connected, TcpConnectInfo},
};
use tower_service::Service;
use tracing::debug;

use super::{
    Drain, admission::Admitted, age::Age, content_type::GrpcOnly, deadline::Deadline, gzip::Gzip,
    panic::CatchPanic, screen::Screen, socket::Socket,
};
use crate::ServerConfig;

/// By how much HTTP/2's own limit on a request's headers is above ours: what
/// lies between is refused with a status that says why, what is above it with a
/// bare HTTP 431.
const HTTP_HEADROOM: u32 = 4;

/// The services of a server, behind its limits.
pub(super) type Services = Admitted<Gzip<Screen<Routes>>>;

/// How every connection of a server is served. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    http: http2::Builder<TokioExecutor>,
    service: CatchPanic<GrpcOnly<Deadline<Services>>>,
    handshake: std::time::Duration,
    age: Age,
    drain: Drain,
    cut: CancellationToken,
    /// Whether an authority was refused already.
    refused: Arc<Once>,
}

impl Connections {
    /// `drain` lets each connection finish its calls and end; `cut` ends it at
    /// once.
    pub(super) fn new(
        service: Services,
        config: &ServerConfig,
        drain: Drain,
        cut: CancellationToken,
    ) -> Self {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(config.max_concurrent_streams)
            .max_header_list_size(config.max_header_list_size.saturating_mul(HTTP_HEADROOM))
            .max_pending_accept_reset_streams(config.max_pending_resets)
            .keep_alive_interval(config.keepalive_time)
            .keep_alive_timeout(config.keepalive_timeout);
        let service = CatchPanic::new(GrpcOnly::new(Deadline::new(service), config.max_header_list_size));
        Self {
            http,
            service,
            handshake: config.handshake_timeout,
            age: Age::new(config),
            drain,
            cut,
            refused: Arc::new(Once::new()),
        }
    }

    /// Serves one connection until it ends.
    pub(super) async fn serve(self, stream: TcpStream) {
        let peer = stream.connect_info();
        let service = TowerToHyperService::new(OnConnection { inner: self.service, peer: peer.clone() });
        let socket =
            TokioIo::new(Socket::new(stream, self.handshake, self.drain.clone(), self.refused.clone()));
        let mut connection = pin!(self.http.serve_connection(socket, service));
        let mut ended = None;
        let is_old = tokio::select! {
            done = connection.as_mut() => {
                ended = Some(done);
                false
            }
            () = self.drain.draining() => false,
            () = self.age.reached() => true,
            () = self.cut.cancelled() => return,
        };
        if ended.is_none() {
            // GOAWAY: calls under way finish, new ones go elsewhere.
            connection.as_mut().graceful_shutdown();
            ended = tokio::select! {
                done = connection => Some(done),
                () = self.cut.cancelled() => None,
                () = self.age.grace_over(), if is_old => {
                    debug!(peer = ?peer.remote_addr, "closed an old connection with calls under way");
                    None
                }
            };
        }
        if let Some(Err(error)) = ended {
            debug!(peer = ?peer.remote_addr, %error, "connection ended with an error");
        }
    }
}

/// Tells the handlers who called.
#[derive(Clone)]
struct OnConnection<S> {
    inner: S,
    peer: TcpConnectInfo,
}

impl<S, R> Service<Request<Incoming>> for OnConnection<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> S::Future {
        let mut request = request.map(tonic::body::Body::new);
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}
