//! Connections: accepting, bounding and closing them.

mod connections;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep, timeout};
use tokio_util::io::InspectReader;
use tracing::{debug, warn};

use connections::{ConnectionActivity, Connections};

use crate::context::Context;
use crate::router;

/// The limit on a connection's idle time between two requests; Consul's own.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The interval between two searches for late request heads.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

const TOO_MANY_CONNECTIONS: &str =
    "Your IP is issuing too many concurrent connections, please rate limit your calls\n";

/// Serves until the task is aborted; its connections end with it.
pub(crate) async fn serve(listener: TcpListener, context: Arc<Context>) {
    let mut open = Connections::default();
    let mut sweep = interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if open.make_room(peer.ip()) => {
                    let context = Arc::clone(&context);
                    open.spawn(peer.ip(), |activity| connection(stream, peer, activity, context));
                }
                Ok((stream, _)) => open.spawn_rejection(reject(stream)),
                Err(error) => {
                    // Most likely out of file descriptors; accepting again without a delay
                    // would spin.
                    warn!(%error, "could not accept a connection, trying again in 100 ms");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            _ = sweep.tick() => open.close_late(),
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    activity: Arc<ConnectionActivity>,
    context: Arc<Context>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "could not switch off Nagle's algorithm");
    }
    let received = Arc::clone(&activity);
    let stream = InspectReader::new(stream, move |bytes: &[u8]| received.received(bytes));
    let service = service_fn(move |request| {
        let (context, activity) = (Arc::clone(&context), Arc::clone(&activity));
        async move { Ok::<_, Infallible>(activity.run_request(router::serve(&context, request)).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%peer, %error, "a connection ended early");
    }
}

/// Responds with 429 before the request is read, and closes, as a real agent
/// does.
async fn reject(mut stream: TcpStream) {
    let response = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{TOO_MANY_CONNECTIONS}",
        TOO_MANY_CONNECTIONS.len()
    );
    // The connection is closed even if the client does not read it.
    let _ = timeout(Duration::from_secs(1), stream.write_all(response.as_bytes())).await;
}
