//! Asks a process what it knows of the mesh.

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

/// How long a process may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most bytes it may say.
const MOST: usize = 16 << 20;

/// What `/debug/mesh` at that address says.
///
/// # Errors
/// When it does not answer, not in time, or not that.
pub(super) async fn state(admin: SocketAddr) -> Result<Value> {
    match timeout(PATIENCE, fetch(admin)).await {
        Ok(answer) => answer,
        Err(_) => bail!("{admin} did not answer within {PATIENCE:?}"),
    }
}

async fn fetch(admin: SocketAddr) -> Result<Value> {
    let stream = TcpStream::connect(admin).await.with_context(|| format!("could not connect to {admin}"))?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/debug/mesh").header("host", admin.to_string()).body(Empty::<Bytes>::new())?;
    let answer = send.send_request(request).await.with_context(|| format!("{admin} broke off"))?;
    if answer.status() != StatusCode::OK {
        bail!("{admin} answered {}; is it a CONSORT_ADMIN of this version?", answer.status());
    }
    let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(anyhow::Error::from_boxed)?;
    serde_json::from_slice(&body.to_bytes()).with_context(|| format!("what {admin} says is not JSON"))
}
