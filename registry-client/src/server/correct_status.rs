//! The correction of statuses that tonic sends before a handler runs.
//!
//! They differ from those of gRPC's other servers, or have no message:
//!
//! | request | tonic alone | here |
//! |---|---|---|
//! | a message above the service's limit | `OUT_OF_RANGE` | `RESOURCE_EXHAUSTED` |
//! | a message that is not protobuf | `INTERNAL` | `INVALID_ARGUMENT` |
//! | two messages where the method takes one | the second is dropped | `INTERNAL` |
//! | an unknown method or service | `UNIMPLEMENTED`, no text | names what is missing |
//!
//! The case follows from how far the request was read, never from tonic's
//! texts, so that a handler's own `OUT_OF_RANGE` is kept. The descriptor says
//! whether a method has a unary request. Without one, and for client streams, a
//! message that is not protobuf stays `INTERNAL`, because it is unknown whether
//! the handler or the decoder failed.

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

use super::descriptors::MethodKind;

mod request;
mod served;

use request::{Progress, TrackedRequest};
pub(super) use served::{MAX_ECHOED, Served};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The most bytes of an encoded status message, and the end of one that was
/// truncated.
const MAX_MESSAGE_LEN: usize = 1024;
const ELLIPSIS: &[u8] = b"...";

const INVALID_ARGUMENT: HeaderValue = HeaderValue::from_static("3");
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

/// A middleware that corrects statuses.
#[derive(Clone, Debug)]
pub(super) struct CorrectStatus<S> {
    inner: S,
    served: Arc<Served>,
}

impl<S> CorrectStatus<S> {
    pub(super) fn new(inner: S, served: Arc<Served>) -> Self {
        Self { inner, served }
    }
}

impl<S, B, R> Service<Request<B>> for CorrectStatus<S>
where
    S: Service<Request<TrackedRequest<B>>, Response = Response<R>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Status>,
    R: Body,
{
    type Response = Response<CorrectStatusBody<R>>;
    type Error = Infallible;
    type Future = CorrectStatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = self.served.kind(request.uri().path());
        let progress = Arc::<Progress>::default();
        let context = CallContext {
            served: self.served.clone(),
            uri: request.uri().clone(),
            kind,
            progress: progress.clone(),
        };
        let one = kind.is_some_and(|kind| !kind.client_streaming);
        let call = self.inner.call(request.map(|body| TrackedRequest::new(body, one, progress)));
        CorrectStatusFuture { call, context: Some(context) }
    }
}

/// The context of a call.
#[derive(Debug)]
struct CallContext {
    served: Arc<Served>,
    uri: Uri,
    kind: Option<MethodKind>,
    progress: Arc<Progress>,
}

impl CallContext {
    /// Corrects the status in the head of a response.
    fn correct_head(&self, head: &mut HeaderMap) {
        shorten_message(head);
        let Some(code) = head.get(GRPC_STATUS) else { return };
        match code.as_bytes() {
            b"11" if self.request_was_too_large() => {
                head.insert(GRPC_STATUS, RESOURCE_EXHAUSTED);
            }
            b"12" if !head.contains_key(GRPC_MESSAGE) => {
                // Fails only for invalid metadata, and this has none.
                let _ = Status::unimplemented(self.served.describe_missing(self.uri.path())).add_header(head);
            }
            b"13" if self.request_was_malformed() => {
                head.insert(GRPC_STATUS, INVALID_ARGUMENT);
            }
            _ => {}
        }
    }

    /// Corrects the status in the trailers of a response.
    fn correct_trailers(&self, trailers: &mut HeaderMap) {
        shorten_message(trailers);
        let is_too_large = trailers.get(GRPC_STATUS).is_some_and(|code| code == "11")
            && (self.request_was_too_large() || self.has_unary_response());
        if is_too_large {
            trailers.insert(GRPC_STATUS, RESOURCE_EXHAUSTED);
        }
    }

    /// Returns whether the request is unary: the handler runs only after the
    /// whole request was read.
    fn has_unary_request(&self) -> bool {
        self.kind.is_some_and(|kind| !kind.client_streaming)
    }

    /// Returns whether the response is unary: an error of the handler is in the
    /// head then, and an encoding error in the trailers.
    fn has_unary_response(&self) -> bool {
        self.kind.is_some_and(|kind| !kind.server_streaming)
    }

    fn request_was_too_large(&self) -> bool {
        let read = self.progress.now();
        if self.has_unary_request() { read.begun && !read.ended } else { read.at_prefix }
    }

    /// A request that a service decompresses itself may have failed at that,
    /// which is INTERNAL.
    fn request_was_malformed(&self) -> bool {
        let read = self.progress.now();
        self.has_unary_request() && read.complete && !read.ended && read.plain
    }
}

/// Truncates an encoded status message above [`MAX_MESSAGE_LEN`]: it may
/// contain data of a peer.
fn shorten_message(fields: &mut HeaderMap) {
    let Some(message) = fields.get_mut(GRPC_MESSAGE).filter(|message| message.len() > MAX_MESSAGE_LEN) else {
        return;
    };
    let encoded = message.as_bytes();
    // `%XX` is not split, and neither is a character of several bytes: those
    // after the first are 80 to BF.
    let is_boundary = |at: usize| {
        let is_in_escape = at > 0 && (encoded[at - 1] == b'%' || at > 1 && encoded[at - 2] == b'%');
        let goes_on = encoded[at] == b'%'
            && matches!(encoded.get(at + 1), Some(b'8' | b'9' | b'a' | b'A' | b'b' | b'B'));
        !is_in_escape && !goes_on
    };
    let end = (0..=MAX_MESSAGE_LEN - ELLIPSIS.len()).rev().find(|at| is_boundary(*at)).unwrap_or(0);
    let cut = [&encoded[..end], ELLIPSIS].concat();
    if let Ok(cut) = HeaderValue::from_bytes(&cut) {
        *message = cut;
    }
}

pin_project! {
    /// The future of a call.
    pub(super) struct CorrectStatusFuture<F> {
        #[pin]
        call: F,
        context: Option<CallContext>,
    }
}

impl<F, R> Future for CorrectStatusFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<CorrectStatusBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.call.poll(cx));
        let context = this.context.take();
        if let Some(context) = &context {
            context.correct_head(response.headers_mut());
        }
        Poll::Ready(Ok(response.map(|body| CorrectStatusBody { body, context })))
    }
}

pin_project! {
    /// A response body with corrected trailers.
    #[derive(Debug)]
    pub(super) struct CorrectStatusBody<R> {
        #[pin]
        body: R,
        context: Option<CallContext>,
    }
}

impl<R: Body> Body for CorrectStatusBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = self.project();
        let mut polled = ready!(this.body.poll_frame(cx));
        if let (Some(Ok(frame)), Some(context)) = (&mut polled, this.context)
            && let Some(trailers) = frame.trailers_mut()
        {
            context.correct_trailers(trailers);
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
                assert!(
                    after <= MAX_MESSAGE_LEN && after + 16 >= before.min(MAX_MESSAGE_LEN),
                    "{before} {after}"
                );
                let read = Status::from_header_map(&fields).unwrap();
                let kept = read.message().strip_suffix("...").unwrap_or(read.message());
                assert!(status.message().starts_with(kept) && !kept.is_empty(), "{read}");
                assert_eq!(before <= MAX_MESSAGE_LEN, kept == status.message());
            }
        }
    }
}
