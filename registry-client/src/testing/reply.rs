//! The reply to one request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tonic::{Code, Status};

/// The behaviour of a [`FaultyService`](super::FaultyService) for one request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    /// Echoes the request's messages, each as it arrives.
    Echo,
    /// Echoes the request's messages after this delay.
    Slow(Duration),
    /// Sends one `google.protobuf.StringValue` of so many bytes, before the
    /// request has ended.
    Message(usize),
    /// Sends this status at once, without a message.
    Fail(Status),
    /// Sends only this head: the response of a proxy in front of a server, or
    /// of a broken server.
    Head(Response<()>),
    /// `RST_STREAM` with `REFUSED_STREAM`: provably not processed.
    Refuse,
    /// `RST_STREAM` with this HTTP/2 error code (8 is CANCEL, 2
    /// `INTERNAL_ERROR`), after this delay.
    Reset(u32, Duration),
    /// The head of a response, and then `RST_STREAM` with this error code.
    ResetAfterHead(u32),
    /// Sends exactly this, once the request has ended: a proxy's page, a
    /// response without trailers, messages that violate gRPC.
    Raw {
        /// The head.
        head: Response<()>,
        /// The body as it is on the wire.
        data: Bytes,
        /// The trailers; `None` ends the stream with the body.
        trailers: Option<HeaderMap>,
    },
    /// No response, ever.
    Hang,
    /// Sends the head of a response, and then nothing.
    HangAfterHead,
    /// Like [`Echo`](Self::Echo), with a GOAWAY: as the reply to every request,
    /// a storm of GOAWAY.
    GoAway,
    /// The connection is closed without a response.
    Close,
}

impl Reply {
    /// A failure with this code.
    #[must_use]
    pub fn fail(code: Code) -> Self {
        Self::Fail(Status::new(code, "as the test says"))
    }

    /// A failure with this code and a pushback: a retry delay, or `None` for no
    /// retry (`grpc-retry-pushback-ms`, gRFC A6).
    #[must_use]
    pub fn pushback(code: Code, after: Option<Duration>) -> Self {
        let millis = after.map_or(-1, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        let mut status = Status::new(code, "as the test says");
        status.metadata_mut().insert("grpc-retry-pushback-ms", millis.into());
        Self::Fail(status)
    }
}
