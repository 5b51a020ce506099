//! What is not gRPC reaches no handler.
//!
//! gRPC over HTTP/2, "Requests": a content type that does not begin with
//! `application/grpc` is answered with HTTP 415, for what else speaks HTTP/2, a
//! browser for one, would take the 200 of a gRPC error for success. What follows
//! it may say `+proto`, which is meant where nothing is said; another encoding
//! would be read as protobuf all the same, and is refused too.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use tonic::Status;
use tower_service::Service;

/// Lets gRPC in, in protobuf, and nothing else.
#[derive(Clone, Debug)]
pub(super) struct GrpcOnly<S> {
    inner: S,
}

impl<S> GrpcOnly<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for GrpcOnly<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Default,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<R>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_grpc(request.headers()) {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Ok(refusal())))
        }
    }
}

/// Tells a gRPC client why as well.
fn refusal<R: Default>() -> Response<R> {
    let words = "the content-type must be application/grpc or application/grpc+proto";
    let mut answer = Status::invalid_argument(words).into_http();
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return false };
    // What comes after `;` says nothing that gRPC knows.
    let kind = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii();
    kind.eq_ignore_ascii_case(b"application/grpc") || kind.eq_ignore_ascii_case(b"application/grpc+proto")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn is(values: &[&[u8]]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap());
        }
        is_grpc(&headers)
    }

    #[test]
    fn grpc_in_protobuf_is_known_however_it_is_written() {
        for value in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "application/grpc+proto ; a=b",
            "Application/gRPC",
        ] {
            assert!(is(&[value.as_bytes()]), "{value}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for value in [
            "",
            "application/json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpcx",
            "application/grpc+json",
            "application/grpc+",
            "application/grpc, application/grpc",
            "text/html;application/grpc",
            "x-application/grpc",
        ] {
            assert!(!is(&[value.as_bytes()]), "{value}");
        }
        assert!(!is(&[]) && !is(&[b"application/grpc\xff"]));
        assert!(!is(&[b"application/grpc", b"application/grpc"]));
    }
}
