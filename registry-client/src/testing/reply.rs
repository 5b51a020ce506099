//! What becomes of one request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tonic::{Code, Status};

/// What a [`FaultyService`](super::FaultyService) does with one request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    /// The request's own messages come back, each as it arrives.
    Echo,
    /// The same, after so long.
    Slow(Duration),
    /// One `google.protobuf.StringValue` of so many bytes comes back, before
    /// the request has ended.
    Message(usize),
    /// This status at once, without a message.
    Fail(Status),
    /// This head and nothing more, whatever it says: what a proxy in front of
    /// a server answers, or what no decent server would.
    Head(Response<()>),
    /// `RST_STREAM` with `REFUSED_STREAM`: provably not processed.
    Refuse,
    /// `RST_STREAM` with this HTTP/2 error code (8 is CANCEL, 2
    /// `INTERNAL_ERROR`), after so long.
    Reset(u32, Duration),
    /// The head of a response, and then `RST_STREAM` with this error code.
    ResetAfterHead(u32),
    /// Exactly this, once the request has ended: a proxy's page, a response
    /// without trailers, messages that break gRPC's rules.
    Raw {
        /// The head.
        head: Response<()>,
        /// The body as it is on the wire.
        data: Bytes,
        /// The trailers; `None` ends the stream with the body.
        trailers: Option<HeaderMap>,
    },
    /// Nothing, ever.
    Hang,
    /// The head of a response, and then nothing.
    HangAfterHead,
    /// As [`Echo`](Self::Echo), and the connection takes no more streams: as
    /// the reply to everything, a storm of GOAWAY.
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

    /// A failure with this code that says when to try again, or with `None`
    /// not to (`grpc-retry-pushback-ms`, gRFC A6).
    #[must_use]
    pub fn pushback(code: Code, after: Option<Duration>) -> Self {
        let millis = after.map_or(-1, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        let mut status = Status::new(code, "as the test says");
        status.metadata_mut().insert("grpc-retry-pushback-ms", millis.into());
        Self::Fail(status)
    }
}
