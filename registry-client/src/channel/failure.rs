//! The failures of calls in the channel itself, and the one place where they
//! become a [`Status`].

use std::{error::Error, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;
use tonic::Status;

use super::{deadline::Deadline, no_instance::NoInstance, peer::Peer};
use crate::{
    code::Code,
    framing::Violation,
    instance::ServiceName,
    outcome::{Cause, Outcome},
    policy::{limit::LimitExceeded, retry},
};

/// A stream that the server cancels so shortly before the deadline was ended by
/// the server's own timer.
const CLOCK_SKEW: Duration = Duration::from_millis(10);
/// The longest part of a foreign content type that an error repeats, in
/// characters.
const MAX_SHOWN: usize = 80;

/// The failure of an attempt, or of a call as a whole.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The connection did not take the request.
    NotSent { to: Peer, cause: Arc<h2::Error> },
    /// The stream or its connection broke.
    Broken { to: Peer, cause: Arc<h2::Error> },
    /// The response is not gRPC: a proxy's error page, another program.
    NotGrpc { to: Peer, http: StatusCode, content_type: Option<String> },
    /// The response violates gRPC.
    Malformed { to: Peer, fault: ResponseFault },
    /// The attempt took longer than one attempt may.
    AttemptTimeout { to: Peer, timeout: Duration },
    /// The caller's own request body failed.
    RequestBody { cause: Status },
    /// The request cannot be written as HTTP/2, for example a bad path.
    BadRequest { cause: Arc<str> },
    /// The caller's `grpc-timeout` is malformed.
    BadTimeout,
    /// No instance was ready, and the call fails fast.
    NoInstance { service: ServiceName, why: NoInstance },
    /// A concurrency limit of the caller's own process was reached.
    LimitExceeded(LimitExceeded),
    /// The service has been refusing too many calls of late.
    Throttled { service: ServiceName },
    /// The deadline passed.
    Expired { timeout: Duration, while_: String },
}

/// A violation of gRPC in a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResponseFault {
    /// A message is malformed or too large.
    Message(Violation),
    /// The response ended without trailers.
    NoTrailers,
    /// The trailers have no `grpc-status`.
    NoStatus,
    /// The response ended with OK within a message.
    Truncated,
    /// The response of a unary method ended with OK and without a message.
    NoMessage,
    /// The caller's codec did not take the message.
    Undecodable,
    /// The messages are compressed with an encoding that the request did not
    /// accept.
    Encoding(String),
}

impl Failure {
    /// A stream of a call with this `deadline` that broke.
    pub(super) fn broken(to: &Peer, cause: h2::Error, deadline: Option<Deadline>) -> Self {
        if let Some(Deadline { at, timeout }) = deadline
            && is_expiry(&cause, at)
        {
            return Self::Expired { timeout, while_: format!("and {to} reset the stream ({cause})") };
        }
        Self::Broken { to: to.clone(), cause: Arc::new(cause) }
    }

    /// A response whose head is not gRPC's.
    pub(super) fn not_grpc(to: &Peer, http: StatusCode, content_type: Option<&[u8]>) -> Self {
        let shown = |value: &[u8]| String::from_utf8_lossy(value).chars().take(MAX_SHOWN).collect();
        Self::NotGrpc { to: to.clone(), http, content_type: content_type.map(shown) }
    }

    /// The outcome of the attempt that failed; also the one place where a
    /// failure gets its code.
    pub(super) fn outcome(&self) -> Outcome {
        let (code, cause) = match self {
            Self::NotSent { .. } => (Code::UNAVAILABLE, Cause::NotSent),
            Self::Broken { cause, .. } => broken(cause),
            Self::NotGrpc { http, .. } => (Code::from_http(http.as_u16()), Cause::NotGrpc),
            Self::Malformed { fault, .. } => match fault {
                ResponseFault::Message(Violation::TooLarge { .. }) => {
                    (Code::RESOURCE_EXHAUSTED, Cause::TooLarge)
                }
                ResponseFault::NoStatus => (Code::UNKNOWN, Cause::Malformed),
                _ => (Code::INTERNAL, Cause::Malformed),
            },
            Self::AttemptTimeout { .. } => (Code::DEADLINE_EXCEEDED, Cause::AttemptTimeout),
            Self::RequestBody { cause } => (Code::from_number(cause.code().into()), Cause::RequestFailed),
            Self::BadRequest { .. } | Self::BadTimeout => (Code::INTERNAL, Cause::RequestFailed),
            Self::NoInstance { .. } => (Code::UNAVAILABLE, Cause::RequestFailed),
            Self::LimitExceeded(_) | Self::Throttled { .. } => {
                (Code::RESOURCE_EXHAUSTED, Cause::RequestFailed)
            }
            Self::Expired { .. } => (Code::DEADLINE_EXCEEDED, Cause::DeadlineExceeded),
        };
        Outcome { code, cause }
    }

    /// The kind of failure for the retry policy.
    pub(super) fn kind(&self) -> retry::FailureKind {
        self.outcome().into()
    }
}

/// Returns whether the server ended the stream because its time was up: by its
/// own timer, a moment before ours.
fn is_expiry(error: &h2::Error, deadline: Instant) -> bool {
    let cancelled = error.reason() == Some(h2::Reason::CANCEL);
    let slack = if cancelled { CLOCK_SKEW } else { Duration::ZERO };
    error.is_reset() && error.is_remote() && Instant::now() + slack >= deadline
}

/// The outcome of a broken stream, by the table in "gRPC over HTTP/2", Errors.
/// A server did not process a stream that it refused, nor one above the last
/// that its GOAWAY names; `h2` gives a remote GOAWAY only to those.
fn broken(error: &h2::Error) -> (Code, Cause) {
    let refused = error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && refused {
        return (Code::UNAVAILABLE, Cause::Refused);
    }
    if error.is_io() || error.is_go_away() {
        return (Code::UNAVAILABLE, Cause::ConnectionLost);
    }
    let code = error.reason().map_or(Code::INTERNAL, |reason| Code::from_http2(reason.into()));
    (code, Cause::Reset)
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(violation) => violation.fmt(f),
            Self::NoTrailers => f.write_str("no trailers: it ended without a grpc-status"),
            Self::NoStatus => f.write_str("trailers without a grpc-status"),
            Self::Truncated => f.write_str("an end within a message"),
            Self::NoMessage => f.write_str("no message, and the method answers with one"),
            Self::Undecodable => f.write_str("a message that cannot be decoded"),
            Self::Encoding(encoding) => {
                write!(f, "grpc-encoding `{encoding}`, which the request did not accept")
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent { to, cause } => write!(f, "{to} did not take the request: {cause}"),
            Self::Broken { to, cause } => match cause.reason() {
                Some(reason) if cause.is_reset() && cause.is_remote() => {
                    write!(f, "{to} reset the stream with {reason:?} ({reason})")
                }
                _ => write!(f, "the stream to {to} broke: {cause}"),
            },
            Self::NotGrpc { to, http, content_type } => {
                write!(f, "{to} answered with HTTP status {} and ", http.as_u16())?;
                match content_type {
                    Some(content_type) => write!(f, "content-type `{content_type}`")?,
                    None => f.write_str("no content-type")?,
                }
                f.write_str(", which is not gRPC: a proxy or another program listens there")
            }
            Self::Malformed { to, fault } => {
                write!(f, "the response of {to} has {fault}")?;
                match fault {
                    ResponseFault::Message(Violation::TooLarge { .. }) => f.write_str(
                        " (ChannelConfig::max_response_bytes, or maxResponseMessageBytes in the service config)",
                    ),
                    _ => Ok(()),
                }
            }
            Self::AttemptTimeout { to, timeout } => {
                write!(f, "{to} did not respond within {timeout:?}, the timeout of one attempt")
            }
            Self::RequestBody { cause } => f.write_str(cause.message()),
            Self::BadRequest { cause } => write!(f, "the request cannot be sent: {cause}"),
            Self::BadTimeout => f.write_str(
                "the request's grpc-timeout is malformed: one to eight digits and one of H M S m u n are expected",
            ),
            Self::NoInstance { service, why } => write!(f, "no instance of `{service}` is ready: {why}"),
            Self::LimitExceeded(limited) => limited.fmt(f),
            Self::Throttled { service } => {
                write!(f, "`{service}` has refused too many calls of late, so this one was not sent (client-side throttling)")
            }
            Self::Expired { timeout, while_ } => write!(f, "deadline of {timeout:?} exceeded {while_}"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotSent { cause, .. } | Self::Broken { cause, .. } => Some(&**cause),
            Self::RequestBody { cause } => Some(cause),
            Self::LimitExceeded(limited) => Some(limited),
            _ => None,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        if let Failure::RequestBody { cause } = failure {
            return cause;
        }
        let mut status = Self::new(i32::from(failure.outcome().code.number()).into(), failure.to_string());
        status.set_source(Arc::new(failure));
        status
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::instance::InstanceId;

    fn peer() -> Peer {
        Peer { id: InstanceId::new("cart-1"), address: "127.0.0.1:1".parse().unwrap() }
    }

    #[test]
    fn a_broken_stream_has_the_code_of_its_reset_and_its_cause_stays_attached() {
        let cause = Arc::new(h2::Error::from(h2::Reason::INTERNAL_ERROR));
        let status = Status::from(Failure::Broken { to: peer(), cause });
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("cart-1 at 127.0.0.1:1"), "{status:?}");
        assert!(status.source().is_some());
    }

    #[test]
    fn a_missing_instance_is_explained() {
        let why = NoInstance::AllFailing(vec![(InstanceId::new("a"), "connection refused".into())]);
        let service: ServiceName = "cart-service".parse().unwrap();
        let status = Status::from(Failure::NoInstance { service, why });
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.message(),
            "no instance of `cart-service` is ready: all 1 are failing: a: connection refused"
        );
    }
}
