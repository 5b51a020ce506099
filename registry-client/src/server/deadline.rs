//! Server-side deadlines: a call ends when its `grpc-timeout` has passed, with
//! the calls of its handler.
//!
//! They cover the whole call, a stream's messages included: the handler is
//! dropped and the response is `DEADLINE_EXCEEDED`, where tonic's own server
//! sends CANCELLED, and only before the first message.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Instant, Sleep, sleep_until},
};
use tonic::Status;
use tower_service::Service;

use crate::policy::{incoming::Incoming, timeout};

/// A middleware that bounds each call by its `grpc-timeout`.
#[derive(Clone, Debug)]
pub(super) struct EnforceDeadline<S> {
    inner: S,
}

impl<S> EnforceDeadline<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for EnforceDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = Response<DeadlineBody<R>>;
    type Error = Infallible;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match grpc_timeout(request.headers()) {
            Ok(Some(Duration::ZERO)) => DeadlineFuture::Rejected { status: Some(expired()) },
            Ok(limit) => {
                // A timeout beyond the range of the clock is none.
                let at = limit.and_then(|limit| Instant::now().checked_add(limit));
                let incoming = Incoming::new(at);
                let call = incoming.sync_scope(|| self.inner.call(request));
                let call = incoming.scope(call);
                DeadlineFuture::Running { call, incoming, expiry: at.map(|at| Box::pin(sleep_until(at))) }
            }
            Err(malformed) => DeadlineFuture::Rejected { status: Some(malformed) },
        }
    }
}

pin_project! {
    /// The future of a bounded call.
    #[project = DeadlineProjection]
    pub(super) enum DeadlineFuture<F> {
        Running { #[pin] call: TaskLocalFuture<Incoming, F>, incoming: Incoming, expiry: Option<Pin<Box<Sleep>>> },
        Rejected { status: Option<Status> },
    }
}

impl<F, R> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<DeadlineBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let status = match self.project() {
            DeadlineProjection::Running { call, incoming, expiry } => {
                if let Poll::Ready(Ok(response)) = call.poll(cx) {
                    let incoming = Some(incoming.clone());
                    return Poll::Ready(Ok(response.map(|body| DeadlineBody {
                        body: Some(body),
                        incoming,
                        expiry: expiry.take(),
                    })));
                }
                let Some(expiry) = expiry else { return Poll::Pending };
                ready!(expiry.as_mut().poll(cx));
                expired()
            }
            DeadlineProjection::Rejected { status } => status.take().unwrap_or_else(expired),
        };
        Poll::Ready(Ok(status.into_http()))
    }
}

pin_project! {
    /// A response body, which ends with `DEADLINE_EXCEEDED` when the deadline
    /// passes.
    #[derive(Debug)]
    pub(super) struct DeadlineBody<R> {
        #[pin]
        body: Option<R>,
        incoming: Option<Incoming>,
        expiry: Option<Pin<Box<Sleep>>>,
    }
}

impl<R> Default for DeadlineBody<R> {
    /// An empty body.
    fn default() -> Self {
        Self { body: None, incoming: None, expiry: None }
    }
}

impl<R: Body> Body for DeadlineBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let polled = match this.incoming {
            Some(incoming) => incoming.sync_scope(|| body.poll_frame(cx)),
            None => body.poll_frame(cx),
        };
        if polled.is_ready() {
            return polled;
        }
        let Some(expiry) = this.expiry else { return Poll::Pending };
        ready!(expiry.as_mut().poll(cx));
        this.body.set(None);
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&expired())))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

fn expired() -> Status {
    Status::deadline_exceeded("the time that the caller allowed (grpc-timeout) has passed")
}

/// A status as the last frame of a stream.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Fails only for invalid metadata, and this has none.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// The caller's timeout. A malformed one is rejected, because the caller relies
/// on it.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = timeout::parse(value.as_bytes());
    parsed.map(Some).ok_or_else(|| Status::internal(format!("malformed grpc-timeout {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_timeout_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(grpc_timeout(&headers).unwrap(), None);
        headers.insert("grpc-timeout", "3S".parse().unwrap());
        assert_eq!(grpc_timeout(&headers).unwrap(), Some(Duration::from_secs(3)));
        headers.insert("grpc-timeout", "3s".parse().unwrap());
        assert_eq!(grpc_timeout(&headers).unwrap_err().code(), tonic::Code::Internal);
    }
}
