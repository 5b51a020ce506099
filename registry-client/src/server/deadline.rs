//! A call ends when its caller's `grpc-timeout` has passed, and so do the
//! calls that its handler makes.
//!
//! Covers the whole call, a stream's messages included: the handler is dropped
//! and the response is `DEADLINE_EXCEEDED`, where tonic's own server would
//! answer CANCELLED and only until the first message.

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

/// Bounds each call of the service within by its `grpc-timeout`.
#[derive(Clone, Debug)]
pub(super) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = Response<Bounded<R>>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match grpc_timeout(request.headers()) {
            Ok(Some(Duration::ZERO)) => Call::Refused { status: Some(expired()) },
            Ok(limit) => {
                // A limit beyond what a clock can hold is none.
                let at = limit.and_then(|limit| Instant::now().checked_add(limit));
                let incoming = Incoming::new(at);
                let call = incoming.sync_scope(|| self.inner.call(request));
                let call = incoming.scope(call);
                Call::Within { call, incoming, expiry: at.map(|at| Box::pin(sleep_until(at))) }
            }
            Err(malformed) => Call::Refused { status: Some(malformed) },
        }
    }
}

pin_project! {
    /// One call, until its response begins.
    #[project = CallProjection]
    pub(super) enum Call<F> {
        Within { #[pin] call: TaskLocalFuture<Incoming, F>, incoming: Incoming, expiry: Option<Pin<Box<Sleep>>> },
        Refused { status: Option<Status> },
    }
}

impl<F, R> Future for Call<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<Bounded<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let status = match self.project() {
            CallProjection::Within { call, incoming, expiry } => {
                if let Poll::Ready(Ok(answer)) = call.poll(cx) {
                    let incoming = Some(incoming.clone());
                    return Poll::Ready(Ok(answer.map(|body| Bounded {
                        body: Some(body),
                        incoming,
                        expiry: expiry.take(),
                    })));
                }
                let Some(expiry) = expiry else { return Poll::Pending };
                ready!(expiry.as_mut().poll(cx));
                expired()
            }
            CallProjection::Refused { status } => status.take().unwrap_or_else(expired),
        };
        Poll::Ready(Ok(status.into_http()))
    }
}

pin_project! {
    /// A response's body, cut off with `DEADLINE_EXCEEDED` when its time is up.
    #[derive(Debug)]
    pub(super) struct Bounded<R> {
        #[pin]
        body: Option<R>,
        incoming: Option<Incoming>,
        expiry: Option<Pin<Box<Sleep>>>,
    }
}

impl<R> Default for Bounded<R> {
    /// Nothing, which is at its end.
    fn default() -> Self {
        Self { body: None, incoming: None, expiry: None }
    }
}

impl<R: Body> Body for Bounded<R> {
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
    // Fails only for metadata that is no header, and ours has none.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// How long the caller waits; a malformed time-out is refused, for the caller
/// believes in one.
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
