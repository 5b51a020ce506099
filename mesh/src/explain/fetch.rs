//! A query to a process's admin endpoint.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// The limit on a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// The limit on a response.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Fetches `/debug/mesh` from that address.
///
/// # Errors
/// When the process does not respond in time, or not with JSON.
pub(super) async fn state(admin: SocketAddr) -> Result<Value> {
    match timeout(QUERY_TIMEOUT, fetch(admin)).await {
        Ok(response) => response,
        Err(_) => bail!("{admin} did not respond within {QUERY_TIMEOUT:?}"),
    }
}

async fn fetch(admin: SocketAddr) -> Result<Value> {
    let stream = TcpStream::connect(admin).await.with_context(|| format!("could not connect to {admin}"))?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection_task = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/debug/mesh").header("host", admin.to_string()).body(Empty::<Bytes>::new())?;
    let response =
        send.send_request(request).await.with_context(|| format!("{admin} closed the connection"))?;
    if response.status() != StatusCode::OK {
        bail!("{admin} responded {}; check that it is a CONSORT_ADMIN of this version", response.status());
    }
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
        .collect()
        .await
        .map_err(anyhow::Error::from_boxed)?;
    serde_json::from_slice(&body.to_bytes()).with_context(|| format!("the response of {admin} is not JSON"))
}
