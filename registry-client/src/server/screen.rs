//! Failures that no handler made end with gRPC's own code and say why.
//!
//! What tonic decides before a handler runs differs from what gRPC's other
//! servers answer, or says nothing:
//!
//! | request | tonic alone | here |
//! |---|---|---|
//! | a message above the service's limit | `OUT_OF_RANGE` | `RESOURCE_EXHAUSTED` |
//! | a message that is not protobuf | `INTERNAL` | `INVALID_ARGUMENT` |
//! | two messages where the method takes one | the second is dropped | `INTERNAL` |
//! | a method or service that is not served | `UNIMPLEMENTED`, no text | names what is missing |
//!
//! Which of them it was follows from how far the request was read, never from
//! tonic's texts, so that a handler's own `OUT_OF_RANGE` stays what it is. That
//! a method takes one message is known from its descriptor. Where there is
//! none, and for requests that are streams, a message that is not protobuf
//! stays `INTERNAL`: whether the handler or the decoder failed is not known.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower_service::Service;

use super::described::Kind;

mod messages;
mod served;

use messages::{Messages, Progress};
pub(super) use served::{MAX_ECHOED, Served};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The most bytes of a status message as it is sent, and what ends one that was cut.
const MAX_MESSAGE: usize = 1024;
const CUT: &[u8] = b"...";

const INVALID_ARGUMENT: HeaderValue = HeaderValue::from_static("3");
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

/// Puts right the statuses of the service within.
#[derive(Clone, Debug)]
pub(super) struct Screen<S> {
    inner: S,
    served: Arc<Served>,
}

impl<S> Screen<S> {
    pub(super) fn new(inner: S, served: Arc<Served>) -> Self {
        Self { inner, served }
    }
}

impl<S, B, R> Service<Request<B>> for Screen<S>
where
    S: Service<Request<Messages<B>>, Response = Response<R>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Status>,
    R: Body,
{
    type Response = Response<Screened<R>>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = self.served.kind(request.uri().path());
        let progress = Arc::<Progress>::default();
        let facts = Facts {
            served: self.served.clone(),
            uri: request.uri().clone(),
            kind,
            progress: progress.clone(),
        };
        let one = kind.is_some_and(|kind| !kind.client_streaming);
        let call = self.inner.call(request.map(|body| Messages::new(body, one, progress)));
        Call { call, facts: Some(facts) }
    }
}

/// What is known of a call beside its response.
#[derive(Debug)]
struct Facts {
    served: Arc<Served>,
    uri: Uri,
    kind: Option<Kind>,
    progress: Arc<Progress>,
}

impl Facts {
    /// Puts right the status in the head of a response.
    fn correct_head(&self, head: &mut HeaderMap) {
        shorten_message(head);
        let Some(code) = head.get(GRPC_STATUS) else { return };
        match code.as_bytes() {
            b"11" if self.request_was_too_large() => {
                head.insert(GRPC_STATUS, RESOURCE_EXHAUSTED);
            }
            b"12" if !head.contains_key(GRPC_MESSAGE) => {
                // Fails only for metadata that is no header, and this has none.
                let _ = Status::unimplemented(self.served.lacks(self.uri.path())).add_header(head);
            }
            b"13" if self.request_was_malformed() => {
                head.insert(GRPC_STATUS, INVALID_ARGUMENT);
            }
            _ => {}
        }
    }

    /// Puts right the status after the messages of a response.
    fn correct_trailers(&self, trailers: &mut HeaderMap) {
        shorten_message(trailers);
        let is_too_large = trailers.get(GRPC_STATUS).is_some_and(|code| code == "11")
            && (self.request_was_too_large() || self.answers_once());
        if is_too_large {
            trailers.insert(GRPC_STATUS, RESOURCE_EXHAUSTED);
        }
    }

    /// Returns whether the method takes one message: its handler runs once the
    /// whole request was read, and not before.
    fn takes_one(&self) -> bool {
        self.kind.is_some_and(|kind| !kind.client_streaming)
    }

    /// Returns whether the method answers with one message: then what its
    /// handler refuses stands in the head, and what cannot be encoded in the
    /// trailers.
    fn answers_once(&self) -> bool {
        self.kind.is_some_and(|kind| !kind.server_streaming)
    }

    fn request_was_too_large(&self) -> bool {
        let read = self.progress.now();
        if self.takes_one() { read.begun && !read.ended } else { read.at_prefix }
    }

    /// One that a service decompresses itself may also have failed at that,
    /// which is INTERNAL.
    fn request_was_malformed(&self) -> bool {
        let read = self.progress.now();
        self.takes_one() && read.complete && !read.ended && read.plain
    }
}

/// Cuts a status message, as it is sent, that is longer than [`MAX_MESSAGE`]: a
/// handler may have put into it what a peer has sent.
fn shorten_message(fields: &mut HeaderMap) {
    let Some(message) = fields.get_mut(GRPC_MESSAGE).filter(|message| message.len() > MAX_MESSAGE) else {
        return;
    };
    let encoded = message.as_bytes();
    // `%XX` stays whole, and so does a character that is several of them: those
    // after the first are from 80 to BF.
    let is_boundary = |at: usize| {
        let is_in_escape = at > 0 && (encoded[at - 1] == b'%' || at > 1 && encoded[at - 2] == b'%');
        let goes_on = encoded[at] == b'%'
            && matches!(encoded.get(at + 1), Some(b'8' | b'9' | b'a' | b'A' | b'b' | b'B'));
        !is_in_escape && !goes_on
    };
    let end = (0..=MAX_MESSAGE - CUT.len()).rev().find(|at| is_boundary(*at)).unwrap_or(0);
    let cut = [&encoded[..end], CUT].concat();
    if let Ok(cut) = HeaderValue::from_bytes(&cut) {
        *message = cut;
    }
}

pin_project! {
    /// One call, until its response begins.
    pub(super) struct Call<F> {
        #[pin]
        call: F,
        facts: Option<Facts>,
    }
}

impl<F, R> Future for Call<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<Screened<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut answer) = ready!(this.call.poll(cx));
        let facts = this.facts.take();
        if let Some(facts) = &facts {
            facts.correct_head(answer.headers_mut());
        }
        Poll::Ready(Ok(answer.map(|body| Screened { body, facts })))
    }
}

pin_project! {
    /// A response's body, with its trailers put right.
    #[derive(Debug)]
    pub(super) struct Screened<R> {
        #[pin]
        body: R,
        facts: Option<Facts>,
    }
}

impl<R: Body> Body for Screened<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = self.project();
        let mut polled = ready!(this.body.poll_frame(cx));
        if let (Some(Ok(frame)), Some(facts)) = (&mut polled, this.facts)
            && let Some(trailers) = frame.trailers_mut()
        {
            facts.correct_trailers(trailers);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_status_message_is_cut_between_characters() {
        for (text, repeated) in
            [("x", 5_000), ("\u{e9}", 700), ("\u{20ac}uro ", 300), ("%", 400), ("x", 1_024)]
        {
            for shift in 0..9 {
                let status = Status::internal("y".repeat(shift) + &text.repeat(repeated));
                let mut fields = HeaderMap::new();
                status.add_header(&mut fields).unwrap();
                let before = fields[GRPC_MESSAGE].len();
                shorten_message(&mut fields);
                let after = fields[GRPC_MESSAGE].len();
                assert!(after <= MAX_MESSAGE && after + 16 >= before.min(MAX_MESSAGE), "{before} {after}");
                let read = Status::from_header_map(&fields).unwrap();
                let kept = read.message().strip_suffix("...").unwrap_or(read.message());
                assert!(status.message().starts_with(kept) && !kept.is_empty(), "{read}");
                assert_eq!(before <= MAX_MESSAGE, kept == status.message());
            }
        }
    }
}
