//! Connections: accepting, bounding and closing them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::Context;
use crate::request::BodyError;
use crate::router;

/// The longest request body, in bytes, of the key-value store; every other body must be shorter anyway.
pub(crate) const MAX_BODY: usize = 512 * 1024;

/// How many connections one client address may hold. A blocked query holds one.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 200;

/// How long a connection may be idle, and how long a client may take to send the head of a request; Consul's own.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a client may take to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const TOO_MANY: &str = "Your IP is issuing too many concurrent connections, please rate limit your calls\n";

/// Serves until the task is aborted; its connections end with it.
pub(crate) async fn serve(listener: TcpListener, context: Arc<Context>) {
    let limit = Arc::new(Limit::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, Arc::clone(&limit), Arc::clone(&context)));
                }
                Err(error) => {
                    // Most likely out of file descriptors; accepting again at once would spin.
                    warn!(%error, "could not accept a connection, trying again in 100 ms");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, limit: Arc<Limit>, context: Arc<Context>) {
    let Some(_place) = limit.enter(peer.ip()) else {
        refuse(stream).await;
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "could not switch off Nagle's algorithm");
    }
    let service = service_fn(move |request| {
        let context = Arc::clone(&context);
        async move { Ok::<_, Infallible>(router::answer(&context, request).await) }
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

/// How many connections each address holds.
#[derive(Debug, Default)]
struct Limit(Mutex<HashMap<IpAddr, usize>>);

impl Limit {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= MAX_CONNECTIONS_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place { limit: Arc::clone(self), address })
    }
}

/// One connection's place; dropping it gives the place back.
#[derive(Debug)]
struct Place {
    limit: Arc<Limit>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.limit.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}
