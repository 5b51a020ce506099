//! A call ends when its caller's `grpc-timeout` has passed.
//!
//! Covers the whole call, a stream's messages included: the handler is dropped
//! and the answer is `DEADLINE_EXCEEDED`, where tonic's own server would answer
//! CANCELLED and only until the first message.

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
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tower_service::Service;

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
            Ok(None) => Call::Within { call: self.inner.call(request), expiry: None },
            Ok(Some(Duration::ZERO)) => Call::Refused { status: Some(expired()) },
            Ok(Some(limit)) => {
                Call::Within { call: self.inner.call(request), expiry: Some(Box::pin(sleep(limit))) }
            }
            Err(malformed) => Call::Refused { status: Some(malformed) },
        }
    }
}

pin_project! {
    /// One call, until its answer begins.
    #[project = CallProjection]
    pub(super) enum Call<F> {
        Within { #[pin] call: F, expiry: Option<Pin<Box<Sleep>>> },
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
            CallProjection::Within { call, expiry } => {
                if let Poll::Ready(answer) = call.poll(cx) {
                    let bounded = |body| Bounded { body: Some(body), expiry: expiry.take() };
                    return Poll::Ready(answer.map(|answer| answer.map(bounded)));
                }
                let Some(expiry) = expiry else { return Poll::Pending };
                ready!(expiry.as_mut().poll(cx));
                expired()
            }
            CallProjection::Refused { status } => status.take().unwrap_or_else(expired),
        };
        let (parts, ()) = status.into_http::<()>().into_parts();
        Poll::Ready(Ok(Response::from_parts(parts, Bounded { body: None, expiry: None })))
    }
}

pin_project! {
    /// An answer's body, cut off with `DEADLINE_EXCEEDED` when its time is up.
    #[derive(Debug)]
    pub(super) struct Bounded<R> {
        #[pin]
        body: Option<R>,
        expiry: Option<Pin<Box<Sleep>>>,
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
        if let Poll::Ready(frame) = body.poll_frame(cx) {
            return Poll::Ready(frame);
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

/// How long the caller waits: at most 8 digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let malformed = || Status::internal(format!("malformed grpc-timeout {value:?}"));
    let (unit, digits) = value.as_bytes().split_last().ok_or_else(malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let amount = digits.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(malformed()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Option<Duration>, tonic::Code> {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            http::HeaderValue::from_str(value).unwrap(),
        )]);
        grpc_timeout(&headers).map_err(|status| status.code())
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        assert_eq!(grpc_timeout(&HeaderMap::new()).unwrap(), None);
        assert_eq!(parse("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        assert_eq!(parse("2M"), Ok(Some(Duration::from_secs(120))));
        assert_eq!(parse("3S"), Ok(Some(Duration::from_secs(3))));
        assert_eq!(parse("500m"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(parse("7u"), Ok(Some(Duration::from_micros(7))));
        assert_eq!(parse("0n"), Ok(Some(Duration::ZERO)));
    }

    #[test]
    fn a_malformed_timeout_is_refused() {
        for bad in ["", "1", "S", "1s", "123456789S", "-1S", "1.5S", " 1S"] {
            assert_eq!(parse(bad), Err(tonic::Code::Internal), "{bad}");
        }
    }
}
