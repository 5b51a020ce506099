//! The outcome of one attempt of a call.
//!
//! An [`Outcome`] is computed once, where the attempt ends. Outlier detection,
//! probes, the retry policy and its budget, hedging, metrics and explanations
//! all read that one value, so that they cannot disagree about it.

use std::fmt;

use crate::code::{Code, Codes};

/// The outcome of one attempt: a status code and its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The gRPC status code, the peer's own or the one that gRPC maps the cause
    /// to.
    pub code: Code,
    /// The cause of the end.
    pub cause: Cause,
}

/// The cause of an attempt's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The instance sent a gRPC status.
    Status,
    /// The instance sent UNIMPLEMENTED for a method that other instances serve,
    /// and has answered nothing else on this connection: another program
    /// listens at its address.
    WrongService,
    /// The instance reset the stream.
    Reset,
    /// The instance provably did not process the request: it refused the
    /// stream, or a GOAWAY named a lower one.
    Refused,
    /// The response is not gRPC, such as a proxy's error page.
    NotGrpc,
    /// The response violates gRPC: no status at its end, a second message in a
    /// unary exchange, a message in an encoding that was not accepted.
    Malformed,
    /// A message of the response exceeds the caller's limit.
    TooLarge,
    /// The connection broke under the stream.
    ConnectionLost,
    /// The request never left this process.
    NotSent,
    /// The caller's own request stream failed.
    RequestFailed,
    /// The call's deadline passed before the response was complete.
    DeadlineExceeded,
    /// The deadline passed while a response stream went on.
    StreamExpired,
    /// The attempt took longer than the method's policy allows one attempt.
    AttemptTimeout,
    /// The caller dropped the call, or another attempt was faster.
    Cancelled,
    /// The caller dropped the call after the instance had taken longer than is
    /// usual for the method.
    CancelledLate,
}

/// The side that ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The instance, or a proxy before it.
    Peer,
    /// The connection.
    Transport,
    /// The deadline of the call or of the attempt.
    Deadline,
    /// The caller.
    Caller,
}

/// The evidence of an outcome about the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// The instance works.
    Success,
    /// The instance failed.
    Failure,
    /// The instance seems to fail; counts only in comparison with instances
    /// that do not.
    WeakFailure,
    /// No evidence.
    Nothing,
}

impl Outcome {
    /// The outcome of an attempt that got this status.
    #[must_use]
    pub const fn status(code: Code) -> Self {
        Self { code, cause: Cause::Status }
    }

    /// The evidence about the instance; `failures` are the codes that count as
    /// failures.
    pub(crate) fn evidence(self, failures: Codes) -> Evidence {
        match self.cause {
            Cause::Status if failures.contains(self.code) => Evidence::Failure,
            Cause::Status | Cause::TooLarge => Evidence::Success,
            Cause::WrongService
            | Cause::Reset
            | Cause::Refused
            | Cause::NotGrpc
            | Cause::Malformed
            | Cause::ConnectionLost
            | Cause::DeadlineExceeded
            | Cause::AttemptTimeout => Evidence::Failure,
            Cause::CancelledLate => Evidence::WeakFailure,
            Cause::NotSent | Cause::RequestFailed | Cause::StreamExpired | Cause::Cancelled => {
                Evidence::Nothing
            }
        }
    }
}

impl Cause {
    /// The side that ended the attempt.
    #[must_use]
    pub fn ended_by(self) -> EndedBy {
        match self {
            Self::Status
            | Self::WrongService
            | Self::Reset
            | Self::Refused
            | Self::NotGrpc
            | Self::Malformed
            | Self::TooLarge => EndedBy::Peer,
            Self::ConnectionLost | Self::NotSent => EndedBy::Transport,
            Self::DeadlineExceeded | Self::StreamExpired | Self::AttemptTimeout => EndedBy::Deadline,
            Self::RequestFailed | Self::Cancelled | Self::CancelledLate => EndedBy::Caller,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, cause } = self;
        match cause {
            Cause::Status => write!(f, "answered {code}"),
            Cause::WrongService => write!(f, "answered {code} to a method that others answer"),
            Cause::Reset => write!(f, "reset the stream ({code})"),
            Cause::Refused => f.write_str("refused the stream"),
            Cause::NotGrpc => write!(f, "answered with something that is not gRPC ({code})"),
            Cause::Malformed => write!(f, "sent a malformed response ({code})"),
            Cause::TooLarge => f.write_str("sent a message above the limit"),
            Cause::ConnectionLost => f.write_str("the connection broke"),
            Cause::NotSent => f.write_str("the request was not sent"),
            Cause::RequestFailed => write!(f, "the request stream failed ({code})"),
            Cause::DeadlineExceeded | Cause::StreamExpired => f.write_str("deadline exceeded"),
            Cause::AttemptTimeout => f.write_str("the attempt timed out"),
            Cause::Cancelled => f.write_str("cancelled"),
            Cause::CancelledLate => f.write_str("cancelled, later than usual"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::FAILURES;

    #[test]
    fn every_end_says_one_thing_about_the_instance_and_has_someone_who_ended_it() {
        use {Cause::*, Evidence::*};
        for (cause, code, evidence, by) in [
            (Status, Code::OK, Success, EndedBy::Peer),
            (Status, Code::from_number(5), Success, EndedBy::Peer),
            (Status, Code::RESOURCE_EXHAUSTED, Success, EndedBy::Peer),
            (Status, Code::UNAVAILABLE, Failure, EndedBy::Peer),
            (WrongService, Code::UNIMPLEMENTED, Failure, EndedBy::Peer),
            (Reset, Code::INTERNAL, Failure, EndedBy::Peer),
            (Reset, Code::CANCELLED, Failure, EndedBy::Peer),
            (Refused, Code::UNAVAILABLE, Failure, EndedBy::Peer),
            (NotGrpc, Code::UNIMPLEMENTED, Failure, EndedBy::Peer),
            (Malformed, Code::INTERNAL, Failure, EndedBy::Peer),
            (TooLarge, Code::RESOURCE_EXHAUSTED, Success, EndedBy::Peer),
            (ConnectionLost, Code::UNAVAILABLE, Failure, EndedBy::Transport),
            (NotSent, Code::UNAVAILABLE, Nothing, EndedBy::Transport),
            (RequestFailed, Code::CANCELLED, Nothing, EndedBy::Caller),
            (DeadlineExceeded, Code::DEADLINE_EXCEEDED, Failure, EndedBy::Deadline),
            (StreamExpired, Code::DEADLINE_EXCEEDED, Nothing, EndedBy::Deadline),
            (AttemptTimeout, Code::DEADLINE_EXCEEDED, Failure, EndedBy::Deadline),
            (Cancelled, Code::CANCELLED, Nothing, EndedBy::Caller),
            (CancelledLate, Code::CANCELLED, WeakFailure, EndedBy::Caller),
        ] {
            let outcome = Outcome { code, cause };
            assert_eq!((outcome.evidence(FAILURES), cause.ended_by()), (evidence, by), "{outcome}");
        }
    }
}
