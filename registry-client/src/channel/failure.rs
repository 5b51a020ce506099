//! How a call can fail in the channel itself, and the one place where that
//! becomes a [`Status`].

use std::{error::Error, fmt, sync::Arc, time::Duration};

use tonic::{Code, Status};

use crate::{
    instance::{Address, InstanceId, ServiceName},
    policy::{limit::Limited, retry},
};

/// Why an attempt, or the call as a whole, failed without an answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The connection would not take the request.
    NotSent { to: Peer, cause: Arc<h2::Error> },
    /// The stream or its connection broke.
    Broken { to: Peer, cause: Arc<h2::Error> },
    /// The caller's own request body failed.
    RequestBody { cause: Status },
    /// The request cannot be written as HTTP/2, for example a bad path.
    BadRequest { cause: Arc<str> },
    /// The caller's `grpc-timeout` is malformed.
    BadTimeout,
    /// There was no instance to send to, and the call was not to wait.
    NoInstance { service: ServiceName, why: NoInstance },
    /// It was not its turn at a limit that the caller's own process keeps.
    Limited(Limited),
    /// The service has been refusing too many calls of late.
    Throttled { service: ServiceName },
    /// The deadline passed.
    Expired { limit: Duration, while_: String },
}

/// An instance as failures name it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: InstanceId,
    pub(super) address: Address,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id, self.address)
    }
}

/// Why no instance is ready, in the words a person needs at 3 a.m.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoInstance {
    /// No look-up has succeeded yet; the last error, if one failed.
    NeverResolved(Option<Arc<str>>),
    /// The registry lists none; its last error, if later look-ups failed.
    NoneListed(Option<Arc<str>>),
    /// Some are being connected to for the first time.
    Connecting(usize),
    /// Every one failed or was taken out; each with its last cause.
    AllFailing(Vec<(InstanceId, Arc<str>)>),
}

impl NoInstance {
    /// Whether waiting a moment is likely to help, so that even a call that
    /// fails fast waits.
    pub(super) fn is_settling(&self) -> bool {
        matches!(self, Self::NeverResolved(None) | Self::Connecting(_))
    }
}

impl fmt::Display for NoInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverResolved(None) => f.write_str("the registry has not answered yet"),
            Self::NeverResolved(Some(error)) => write!(f, "it was never resolved: {error}"),
            Self::NoneListed(None) => {
                f.write_str("the registry lists none: is it started, and registered under this name?")
            }
            Self::NoneListed(Some(error)) => {
                write!(f, "the registry listed none when it last answered; now {error}")
            }
            Self::Connecting(1) => f.write_str("the only instance is still being connected to"),
            Self::Connecting(n) => write!(f, "{n} instances are still being connected to"),
            Self::AllFailing(causes) => {
                write!(f, "all {} are failing", causes.len())?;
                let mut separator = ": ";
                for (id, cause) in causes.iter().take(5) {
                    write!(f, "{separator}{id}: {cause}")?;
                    separator = "; ";
                }
                if causes.len() > 5 { f.write_str("; …") } else { Ok(()) }
            }
        }
    }
}

impl Failure {
    /// What the retry policy needs to know of it.
    pub(super) fn kind(&self) -> retry::Failure {
        match self {
            Self::NotSent { .. } => retry::Failure::NotProcessed,
            Self::Broken { cause, .. } if refused(cause) => retry::Failure::NotProcessed,
            Self::Broken { cause, .. } if lost(cause) => retry::Failure::Unavailable,
            _ => retry::Failure::Final,
        }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::NotSent { .. } | Self::NoInstance { .. } => Code::Unavailable,
            Self::Broken { cause, .. } => code(cause),
            Self::RequestBody { cause } => cause.code(),
            Self::BadRequest { .. } | Self::BadTimeout => Code::Internal,
            Self::Limited(_) | Self::Throttled { .. } => Code::ResourceExhausted,
            Self::Expired { .. } => Code::DeadlineExceeded,
        }
    }
}

/// Whether the server said that it did not process the stream: it refused it,
/// or a GOAWAY named a lower one. `h2` gives a remote GOAWAY only to streams
/// above the last one that the frame names.
fn refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Whether the connection went away under the stream.
fn lost(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away()
}

/// The status of a broken stream, after the table in "gRPC over HTTP/2", Errors.
fn code(error: &h2::Error) -> Code {
    if lost(error) {
        return Code::Unavailable;
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(h2::Reason::CANCEL) => Code::Cancelled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent { to, cause } => write!(f, "{to} took no request: {cause}"),
            Self::Broken { to, cause } => write!(f, "the stream to {to} broke: {cause}"),
            Self::RequestBody { cause } => f.write_str(cause.message()),
            Self::BadRequest { cause } => write!(f, "the request cannot be sent: {cause}"),
            Self::BadTimeout => f.write_str(
                "the request's grpc-timeout is malformed: one to eight digits and one of H M S m u n are expected",
            ),
            Self::NoInstance { service, why } => write!(f, "no instance of `{service}` is ready: {why}"),
            Self::Limited(limited) => limited.fmt(f),
            Self::Throttled { service } => {
                write!(f, "`{service}` has refused too many calls of late, so this one was not sent (client-side throttling)")
            }
            Self::Expired { limit, while_ } => write!(f, "deadline of {limit:?} exceeded {while_}"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotSent { cause, .. } | Self::Broken { cause, .. } => Some(&**cause),
            Self::RequestBody { cause } => Some(cause),
            Self::Limited(limited) => Some(limited),
            _ => None,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        if let Failure::RequestBody { cause } = failure {
            return cause;
        }
        let mut status = Self::new(failure.code(), failure.to_string());
        status.set_source(Arc::new(failure));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer { id: InstanceId::new("cart-1"), address: "127.0.0.1:1".parse().unwrap() }
    }

    #[test]
    fn a_broken_connection_is_unavailable_and_its_cause_stays_attached() {
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
