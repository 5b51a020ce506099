//! The admin endpoint of a process: plain HTTP on a loopback address.
//!
//! | path | answer |
//! |---|---|
//! | `/debug/mesh` | [`MeshState`] as JSON: the process, its servers, its channels |
//! | `/metrics` | the page of [`MeshBuilder::metrics_page`](crate::MeshBuilder::metrics_page) for Prometheus, else 404 |
//! | `/healthz` | 200 while every server of the process serves, else 503 |
//!
//! The endpoint is read-only and bounded: few connections in all and from one
//! address, small requests, short timeouts. When it is full, a new connection
//! replaces the one that has been idle longest.

mod connections;

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, LazyLock, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use connections::{Activity, OpenConnections};

use crate::{AdminConfig, Error, mesh::Shared, server::ServerState, telemetry::ChannelState};

/// The longest time of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time for the head of a request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of a request's head.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The delay after `accept` failed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The response of `/metrics` without a page.
const NO_METRICS_PAGE: &str = "nothing is measured here: the program gives its mesh no `metrics_page`; \
     there are /debug/mesh and /healthz\n";

/// The renderer of `/metrics`. Behind a lock, so that a slow one occupies a
/// single thread, however many requests there are.
#[derive(Clone)]
pub(crate) struct Page(Arc<Mutex<Render>>);

type Render = Box<dyn FnMut() -> Result<String, String> + Send>;

impl Page {
    pub(crate) fn new<E: fmt::Display>(
        mut render: impl FnMut() -> Result<String, E> + Send + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(Box::new(move || render().map_err(|why| why.to_string())))))
    }

    async fn answer(self) -> Response<Full<Bytes>> {
        let mut render = self.0.lock_owned().await;
        // Rendering may take longer than a call should have to wait for its
        // thread.
        let rendered = spawn_blocking(move || match render() {
            Ok(page) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page.into()),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be rendered: {why}\n")),
        });
        let panicked = || text(StatusCode::INTERNAL_SERVER_ERROR, "cannot be rendered: that panicked\n");
        rendered.await.unwrap_or_else(|_| panicked())
    }
}

/// The state of the mesh in a process, as `/debug/mesh` shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MeshState {
    /// The process.
    pub process: ProcessState,
    /// The running servers.
    pub servers: Vec<ServerState>,
    /// The channels, by service.
    pub channels: Vec<ChannelState>,
}

/// The process, as `/debug/mesh` shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ProcessState {
    /// The process id.
    pub pid: u32,
    /// The version of this library.
    pub library: &'static str,
    /// Seconds since the first mesh was built.
    pub uptime_s: u64,
}

impl ProcessState {
    pub(crate) fn now() -> Self {
        Self {
            pid: std::process::id(),
            library: env!("CARGO_PKG_VERSION"),
            uptime_s: STARTED_AT.elapsed().as_secs(),
        }
    }
}

static STARTED_AT: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Starts the uptime of the process.
pub(crate) fn begin_uptime() {
    LazyLock::force(&STARTED_AT);
}

/// Listens on the address of `config`.
///
/// # Errors
/// When the address is not allowed or cannot be bound.
pub(crate) async fn bind(config: &AdminConfig) -> Result<TcpListener, Error> {
    let AdminConfig { address, anywhere } = config;
    if !address.ip().is_loopback() {
        if !anywhere {
            return Err(Error::Config(format!(
                "CONSORT_ADMIN: {address} is reachable from other machines, which can then read everything; \
                 take 127.0.0.1, or allow it by CONSORT_ADMIN_ANYWHERE=on"
            )));
        }
        warn!(%address, "the admin endpoint on {address} is readable by every host that can reach it");
    }
    TcpListener::bind(address).await.map_err(|why| {
        Error::Config(format!("CONSORT_ADMIN: cannot listen on {address}: {why}; take another address"))
    })
}

/// Serves on `listener` for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, mesh: Weak<Shared>) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "the admin endpoint is at http://{address}/debug/mesh");
    }
    // Dropped with this task, which ends them.
    let mut open = OpenConnections::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let mesh = mesh.clone();
                open.spawn(peer.ip(), |activity| async move {
                    // Errors of a slow or broken peer are ignored.
                    let _ = timeout(CONNECTION_TIMEOUT, connection(stream, activity, mesh)).await;
                });
            }
            Err(error) => {
                warn!(%error, "the admin endpoint failed to accept a connection: {error}");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    activity: Arc<Activity>,
    mesh: Weak<Shared>,
) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request, mesh.clone());
        let activity = &activity;
        async move { Ok::<_, Infallible>(activity.run_busy(answer).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: Request<Incoming>, mesh: Weak<Shared>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET: nothing can be changed here\n");
    }
    let Some(mesh) = mesh.upgrade() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the mesh of this process is gone\n");
    };
    match request.uri().path() {
        "/debug/mesh" => json(&mesh.state()),
        "/metrics" => {
            let page = mesh.metrics_page();
            // A request must not keep the mesh alive.
            drop(mesh);
            match page {
                Some(page) => page.answer().await,
                None => text(StatusCode::NOT_FOUND, NO_METRICS_PAGE),
            }
        }
        "/healthz" => {
            let servers = mesh.servers();
            match servers.iter().find(|server| !server.serving) {
                Some(failing) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("{} does not serve\n", failing.service))
                }
                None => text(StatusCode::OK, "ok\n"),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "there are /debug/mesh, /metrics and /healthz\n"),
    }
}

fn json(state: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(state) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written as JSON: {why}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.into().into_bytes())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
