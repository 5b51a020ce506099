//! What an instance's own health service says, followed on its connection.
//!
//! Source: gRPC "Client-side health checking" (gRFC A17). Unlike there, a
//! stream that fails does not take the instance out: its last word holds until
//! there is another, and where there was none it is called all the same after
//! a moment. What calls find out decides then.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::{Request, Uri};
use prost::Message;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tracing::debug;

use super::{
    connection::Connection,
    failure::{Failure, Peer},
    interim::FinalResponse,
    response::{ResponseHead, screen_head, status_of},
};
use crate::{
    backoff::ConnectBackoff,
    code::Code,
    health::Watch,
    outcome::{Cause, Outcome},
};

/// The longest that an instance is held back for its first answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The largest answer taken, in bytes; it has two.
const MOST: usize = 1 << 10;
/// The bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What an instance is asked for its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthQuery {
    /// The URI of the method.
    pub(super) uri: Uri,
    /// The name that it is asked for; empty for the whole server.
    pub(super) service: Arc<str>,
}

/// Follows what a connection's health service says.
pub(super) struct Watcher<'a> {
    connection: &'a Connection,
    query: &'a HealthQuery,
    asked: Option<Asked>,
    /// When it was asked, or when it will be again.
    at: Instant,
    backoff: ConnectBackoff,
    /// Until when the first answer may come; `None` once it need not any more.
    patience: Option<Instant>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(connection: &'a Connection, query: &'a HealthQuery) -> Self {
        let now = Instant::now();
        let (backoff, patience) = (ConnectBackoff::new(), Some(now + PATIENCE));
        Self { connection, query, asked: None, at: now, backoff, patience }
    }

    /// The next word; [`Watch::Off`] when the first is late, `None` when
    /// there is no such service.
    pub(super) async fn next(&mut self) -> Option<Watch> {
        loop {
            let Some(asked) = &mut self.asked else {
                if let Some(until) = self.patience.take_if(|until| *until < self.at) {
                    sleep_until(until).await;
                    return Some(Watch::Off);
                }
                sleep_until(self.at).await;
                self.at = Instant::now();
                self.asked = Some(Asked::new(self.connection, self.query));
                continue;
            };
            let heard = match self.patience {
                Some(until) => timeout_at(until, asked.next()).await.unwrap_or(Ok(Watch::Off)),
                None => asked.next().await,
            };
            match heard {
                Ok(status) => {
                    self.patience = None;
                    self.backoff = ConnectBackoff::new();
                    return Some(status);
                }
                Err(Ended::Unimplemented) => return None,
                Err(cause) => {
                    debug!(instance = %self.connection.peer, %cause, "its health cannot be watched");
                    self.asked = None;
                    self.at += self.backoff.delay(false);
                    // Whoever does not know the name is another program;
                    // servers say so by a status, or by SERVICE_UNKNOWN.
                    if matches!(cause, Ended::Status(Code::NOT_FOUND)) && !self.query.service.is_empty() {
                        self.patience = None;
                        return Some(Watch::NotServing);
                    }
                }
            }
        }
    }
}

/// Why there is no more to hear.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it has no health service")]
    Unimplemented,
    #[error("it answered {0}")]
    Status(Code),
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("what it said is no health status")]
    Malformed,
}

impl Ended {
    fn with(code: Code) -> Self {
        if code == Code::UNIMPLEMENTED { Self::Unimplemented } else { Self::Status(code) }
    }
}

/// Asks for its health once, as a probe: what an attempt that went so would have amounted to. A server without a health service has answered.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub(super) async fn ask_once(connection: &Connection, query: &HealthQuery) -> Outcome {
    match Asked::new(connection, query).next().await {
        Ok(Watch::NotServing) => Outcome::status(Code::UNAVAILABLE),
        Ok(_) | Err(Ended::Unimplemented) => Outcome::status(Code::OK),
        Err(Ended::Status(code)) => Outcome::status(code),
        Err(Ended::Failed(failure)) => failure.outcome(),
        Err(Ended::Malformed) => Outcome { code: Code::INTERNAL, cause: Cause::Malformed },
    }
}

/// One stream of answers.
struct Asked {
    peer: Peer,
    answer: Result<FinalResponse, Option<Failure>>,
    frames: Option<RecvStream>,
    read: BytesMut,
}

impl Asked {
    fn new(connection: &Connection, query: &HealthQuery) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = http::Method::POST;
        *head.version_mut() = http::Version::HTTP_2;
        *head.uri_mut() = query.uri.clone();
        head.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
        head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        let sent = connection.send(head, false).and_then(|(answer, mut request)| {
            request.send_data(request_message(&query.service), true)?;
            Ok(answer)
        });
        let peer = connection.peer.clone();
        let not_sent = |cause| Some(Failure::NotSent { to: peer.clone(), cause: Arc::new(cause) });
        Self { answer: sent.map_err(not_sent), peer, frames: None, read: BytesMut::new() }
    }

    /// The next status. Cancel safe: nothing that arrived is lost.
    async fn next(&mut self) -> Result<Watch, Ended> {
        loop {
            if let Some(status) = self.message()? {
                return Ok(status);
            }
            let Some(frames) = &mut self.frames else {
                self.frames = Some(self.begin().await?);
                continue;
            };
            let broken = |error| Failure::broken(&self.peer, error, None);
            match poll_fn(|cx| frames.poll_data(cx)).await.transpose().map_err(broken)? {
                Some(data) => {
                    // Fails only for more than was received.
                    let _ = frames.flow_control().release_capacity(data.len());
                    self.read.extend_from_slice(&data);
                }
                None => {
                    let trailers = poll_fn(|cx| frames.poll_trailers(cx)).await.map_err(broken)?;
                    let code = trailers.as_ref().and_then(status_of).unwrap_or(Code::UNKNOWN);
                    return Err(Ended::with(code));
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<RecvStream, Ended> {
        let head = match &mut self.answer {
            Ok(answer) => answer.await.map_err(|error| Failure::broken(&self.peer, error, None))?,
            Err(failure) => return Err(failure.take().map_or(Ended::Malformed, Ended::Failed)),
        };
        match screen_head(&head, &self.peer, None) {
            Ok(ResponseHead::Status(code)) => Err(Ended::with(code)),
            Ok(ResponseHead::Messages { .. }) => Ok(head.into_body()),
            // A page that says "not found" says that there is no such method.
            Err(failure) if failure.outcome().code == Code::UNIMPLEMENTED => Err(Ended::Unimplemented),
            Err(failure) => Err(failure.into()),
        }
    }

    /// A whole message of what was read.
    fn message(&mut self) -> Result<Option<Watch>, Ended> {
        let Some((prefix, rest)) = self.read.split_at_checked(PREFIX) else { return Ok(None) };
        let size = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] != 0 || size > MOST {
            return Err(Ended::Malformed);
        }
        if rest.len() < size {
            return Ok(None);
        }
        self.read.advance(PREFIX);
        let message = self.read.split_to(size);
        let answer = HealthCheckResponse::decode(message).map_err(|_| Ended::Malformed)?;
        Ok(Some(match answer.status() {
            ServingStatus::Serving => Watch::Serving,
            _ => Watch::NotServing,
        }))
    }
}

fn request_message(service: &str) -> Bytes {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut framed = vec![0; PREFIX];
    // A service's name is short.
    framed[1..].copy_from_slice(&u32::try_from(request.encoded_len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(request.encode_to_vec());
    framed.into()
}
