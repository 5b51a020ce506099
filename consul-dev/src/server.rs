//! Connections: accepting, bounding and closing them.

mod connections;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep, timeout};
use tokio_util::io::InspectReader;
use tracing::{debug, warn};

use connections::{Activity, Connections};

use crate::Context;
use crate::request::BodyError;
use crate::router;

/// The longest request body, in bytes, of the key-value store; every other body must be shorter anyway.
pub(crate) const MAX_BODY: usize = 512 * 1024;

/// How long a connection may be idle between two requests; Consul's own.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How often late heads of requests are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long a client may take to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const TOO_MANY: &str = "Your IP is issuing too many concurrent connections, please rate limit your calls\n";

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
                Ok((stream, _)) => open.spawn_refusal(refuse(stream)),
                Err(error) => {
                    // Most likely out of file descriptors; accepting again at once would spin.
                    warn!(%error, "could not accept a connection, trying again in 100 ms");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            _ = sweep.tick() => open.close_late(),
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, activity: Arc<Activity>, context: Arc<Context>) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "could not switch off Nagle's algorithm");
    }
    let received = Arc::clone(&activity);
    let stream = InspectReader::new(stream, move |bytes: &[u8]| received.received(bytes));
    let service = service_fn(move |request| {
        let (context, activity) = (Arc::clone(&context), Arc::clone(&activity));
        async move { Ok::<_, Infallible>(activity.answering(router::answer(&context, request)).await) }
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

/// Answers 429 before the request is read, and closes, as the real agent does.
async fn refuse(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{TOO_MANY}",
        TOO_MANY.len()
    );
    // A client that does not take it is cut off all the same.
    let _ = timeout(Duration::from_secs(1), stream.write_all(answer.as_bytes())).await;
}

/// Reads a body, but no more and no longer than is allowed of one.
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, BodyError> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(BodyError::TooLarge { announced });
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { announced: None }),
        Ok(Err(_)) | Err(_) => Err(BodyError::Broken),
    }
}
