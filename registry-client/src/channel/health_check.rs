//! Client-side health checking: a watch of an instance's own health service.
//!
//! Source: gRFC A17. Unlike there, a stream that fails does not take the instance
//! out: its last status holds until there is another. Without any status the
//! instance gets calls after a moment, and their outcomes decide.

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
    failure::Failure,
    interim::FinalResponse,
    peer::Peer,
    response::{ResponseHead, status_of, validate_head},
};
use crate::{
    backoff::Backoff,
    code::Code,
    health::ServingState,
    outcome::{Cause, Outcome},
};

/// The longest that an instance gets no calls while its first status is
/// awaited.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest response that is accepted, in bytes; a response has two.
const MAX_MESSAGE_LEN: usize = 1 << 10;
/// The length of a message's prefix: a flag and four bytes of length.
const PREFIX_LEN: usize = 5;

/// The method and the service name of an instance's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthCheckConfig {
    /// The URI of the method.
    pub(super) uri: Uri,
    /// The service name of the request; empty for the whole server.
    pub(super) service: Arc<str>,
}

/// A watch of the health service on one connection.
pub(super) struct HealthWatcher<'a> {
    connection: &'a Connection,
    query: &'a HealthCheckConfig,
    stream: Option<HealthStream>,
    /// The time of the last request, or of the next.
    next_query: Instant,
    backoff: Backoff,
    /// The deadline of the first response; `None` once it has passed or the
    /// response arrived.
    first_response_by: Option<Instant>,
}

impl<'a> HealthWatcher<'a> {
    pub(super) fn new(connection: &'a Connection, query: &'a HealthCheckConfig) -> Self {
        let now = Instant::now();
        let (backoff, first_response_by) = (Backoff::connect(), Some(now + FIRST_RESPONSE_TIMEOUT));
        Self { connection, query, stream: None, next_query: now, backoff, first_response_by }
    }

    /// The next status; [`ServingState::Off`] when the first is late, `None`
    /// when the server has no health service.
    pub(super) async fn next(&mut self) -> Option<ServingState> {
        loop {
            let Some(stream) = &mut self.stream else {
                if let Some(until) = self.first_response_by.take_if(|until| *until < self.next_query) {
                    sleep_until(until).await;
                    return Some(ServingState::Off);
                }
                sleep_until(self.next_query).await;
                self.next_query = Instant::now();
                self.stream = Some(HealthStream::new(self.connection, self.query));
                continue;
            };
            let update = match self.first_response_by {
                Some(until) => timeout_at(until, stream.next()).await.unwrap_or(Ok(ServingState::Off)),
                None => stream.next().await,
            };
            match update {
                Ok(status) => {
                    self.first_response_by = None;
                    self.backoff.reset();
                    return Some(status);
                }
                Err(WatchError::Unimplemented) => return None,
                Err(cause) => {
                    debug!(instance = %self.connection.peer, %cause, "the health check failed: {cause}");
                    self.stream = None;
                    self.next_query += self.backoff.next();
                    // A server that does not know the name is another program;
                    // servers report it by a status or by SERVICE_UNKNOWN.
                    if matches!(cause, WatchError::Status(Code::NOT_FOUND)) && !self.query.service.is_empty()
                    {
                        self.first_response_by = None;
                        return Some(ServingState::NotServing);
                    }
                }
            }
        }
    }
}

/// The reason for which a health stream ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the server has no health service")]
    Unimplemented,
    #[error("the server answered {0}")]
    Status(Code),
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("the response is no health status")]
    Malformed,
}

impl WatchError {
    fn with(code: Code) -> Self {
        if code == Code::UNIMPLEMENTED { Self::Unimplemented } else { Self::Status(code) }
    }
}

/// Checks the health once, as a probe; returns the outcome of an equivalent
/// attempt. A server without a health service has answered.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub(super) async fn check_once(connection: &Connection, query: &HealthCheckConfig) -> Outcome {
    match HealthStream::new(connection, query).next().await {
        Ok(ServingState::NotServing) => Outcome::status(Code::UNAVAILABLE),
        Ok(_) | Err(WatchError::Unimplemented) => Outcome::status(Code::OK),
        Err(WatchError::Status(code)) => Outcome::status(code),
        Err(WatchError::Failed(failure)) => failure.outcome(),
        Err(WatchError::Malformed) => Outcome { code: Code::INTERNAL, cause: Cause::Malformed },
    }
}

/// One `Watch` stream.
struct HealthStream {
    peer: Peer,
    response: Result<FinalResponse, Option<Failure>>,
    frames: Option<RecvStream>,
    read: BytesMut,
}

impl HealthStream {
    fn new(connection: &Connection, query: &HealthCheckConfig) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = http::Method::POST;
        *head.version_mut() = http::Version::HTTP_2;
        *head.uri_mut() = query.uri.clone();
        head.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
        head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        let sent = connection.send(head, false).and_then(|(response, mut request)| {
            request.send_data(request_message(&query.service), true)?;
            Ok(response)
        });
        let peer = connection.peer.clone();
        let not_sent = |cause| Some(Failure::NotSent { to: peer.clone(), cause: Arc::new(cause) });
        Self { response: sent.map_err(not_sent), peer, frames: None, read: BytesMut::new() }
    }

    /// The next status.
    ///
    /// # Cancel safety
    /// Cancel safe: no received data is lost.
    async fn next(&mut self) -> Result<ServingState, WatchError> {
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
                    // Fails only if more is released than was received.
                    let _ = frames.flow_control().release_capacity(data.len());
                    self.read.extend_from_slice(&data);
                }
                None => {
                    let trailers = poll_fn(|cx| frames.poll_trailers(cx)).await.map_err(broken)?;
                    let code = trailers.as_ref().and_then(status_of).unwrap_or(Code::UNKNOWN);
                    return Err(WatchError::with(code));
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<RecvStream, WatchError> {
        let head = match &mut self.response {
            Ok(response) => response.await.map_err(|error| Failure::broken(&self.peer, error, None))?,
            Err(failure) => return Err(failure.take().map_or(WatchError::Malformed, WatchError::Failed)),
        };
        match validate_head(&head, &self.peer, None) {
            Ok(ResponseHead::Status(code)) => Err(WatchError::with(code)),
            Ok(ResponseHead::Messages { .. }) => Ok(head.into_body()),
            // An HTTP "not found" means that the method does not exist.
            Err(failure) if failure.outcome().code == Code::UNIMPLEMENTED => Err(WatchError::Unimplemented),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The next whole message in the buffer.
    fn message(&mut self) -> Result<Option<ServingState>, WatchError> {
        let Some((prefix, rest)) = self.read.split_at_checked(PREFIX_LEN) else { return Ok(None) };
        let size = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] != 0 || size > MAX_MESSAGE_LEN {
            return Err(WatchError::Malformed);
        }
        if rest.len() < size {
            return Ok(None);
        }
        self.read.advance(PREFIX_LEN);
        let message = self.read.split_to(size);
        let response = HealthCheckResponse::decode(message).map_err(|_| WatchError::Malformed)?;
        Ok(Some(match response.status() {
            ServingStatus::Serving => ServingState::Serving,
            _ => ServingState::NotServing,
        }))
    }
}

fn request_message(service: &str) -> Bytes {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut framed = vec![0; PREFIX_LEN];
    // A service name is short.
    framed[1..].copy_from_slice(&u32::try_from(request.encoded_len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(request.encode_to_vec());
    framed.into()
}
