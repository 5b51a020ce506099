//! The rejection of requests that are not gRPC.
//!
//! gRPC over HTTP/2, "Requests": a content type that does not begin with
//! `application/grpc` is rejected with HTTP 415, because other clients, such as
//! browsers, would take the 200 of a gRPC error for success. The suffix may be
//! `+proto`, which is the default; any other encoding would be read as
//! protobuf, and is rejected too. An HTTP method other than POST is rejected
//! with HTTP 405, and headers above the limit with HTTP 431. Each response has
//! a gRPC status with the reason too.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use tonic::Status;
use tower_service::Service;

/// A middleware that rejects requests other than gRPC with protobuf.
#[derive(Clone, Debug)]
pub(super) struct GrpcOnly<S> {
    inner: S,
    max_header_list_size: u32,
}

impl<S> GrpcOnly<S> {
    pub(super) fn new(inner: S, max_header_list_size: u32) -> Self {
        Self { inner, max_header_list_size }
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
        match rejection(&request, self.max_header_list_size) {
            None => Either::Left(self.inner.call(request)),
            Some(rejected) => Either::Right(ready(Ok(rejected))),
        }
    }
}

/// The response to a request that is not gRPC; `None` for one that is.
fn rejection<B, R: Default>(request: &Request<B>, max_header_list_size: u32) -> Option<Response<R>> {
    if request.method() != Method::POST {
        let status =
            Status::internal(format!("the HTTP method is {}, and gRPC takes POST", request.method()));
        let mut answer = status.into_http();
        *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(answer);
    }
    if !has_grpc_type(request.headers()) {
        let words = "the content-type must be application/grpc or application/grpc+proto";
        let mut answer = Status::invalid_argument(words).into_http();
        *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(answer);
    }
    let size = header_list_size(request);
    if size > max_header_list_size as usize {
        let words =
            format!("the request has {size} bytes of headers, and the limit is {max_header_list_size}");
        let mut answer = Status::resource_exhausted(words).into_http();
        *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(answer);
    }
    None
}

/// The size of a header list (RFC 9113, 6.5.2): names, values, and 32 bytes for
/// each field, the four pseudo-header fields included.
fn header_list_size<B>(request: &Request<B>) -> usize {
    const FIELD: usize = 32;
    let uri = request.uri();
    let scheme = ":scheme".len() + uri.scheme_str().map_or(0, str::len);
    let authority = ":authority".len() + uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = ":path".len() + uri.path_and_query().map_or(0, |path| path.as_str().len());
    let method = ":method".len() + request.method().as_str().len();
    let fields = request.headers().iter().map(|(name, value)| FIELD + name.as_str().len() + value.len());
    4 * FIELD + scheme + authority + path + method + fields.sum::<usize>()
}

/// Returns whether a request is one of gRPC, in protobuf.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && has_grpc_type(request.headers())
}

fn has_grpc_type(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return false };
    // gRPC knows no parameters after `;`.
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
        has_grpc_type(&headers)
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
