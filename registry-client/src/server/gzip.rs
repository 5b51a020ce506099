//! Compression with gzip: of requests, and of responses where it pays off.
//!
//! It applies to every service of a server, the built-in ones too: the services
//! below see uncompressed messages. tonic's own option compresses every
//! response to every caller that accepts gzip, which gRPC's clients for Python,
//! C++ and Java all do: a small message becomes larger by it, and costs more
//! than the call. Here a message is compressed when it has [`MIN_SIZE`] bytes
//! and becomes smaller. Decompression stops at the size limit.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tonic::Status;
use tower_service::Service;

use super::peers::PeerConnection;
use crate::ServerConfig;

mod compress;
mod decompress;
mod slices;

use compress::Compressed;
use decompress::{Decompressed, DecompressionBudget};

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip,identity");

/// The smallest message that is compressed, in bytes: a smaller one fits into
/// one packet either way.
const MIN_SIZE: usize = 1024;

/// The length of a message's prefix: a flag for compression, and the length in
/// four bytes.
const PREFIX_LEN: usize = 5;

/// A middleware that decompresses requests and compresses responses.
#[derive(Clone, Debug)]
pub(super) struct Gzip<S> {
    inner: S,
    is_on: bool,
    max_size: usize,
}

impl<S> Gzip<S> {
    pub(super) fn new(inner: S, config: &ServerConfig) -> Self {
        Self { inner, is_on: config.gzip, max_size: config.max_decompressed_size }
    }
}

impl<S, B, R> Service<Request<B>> for Gzip<S>
where
    S: Service<Request<Decompressed<B>>, Response = Response<R>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Status>,
    R: Body<Data = Bytes>,
{
    type Response = Response<Compressed<R>>;
    type Error = Infallible;
    type Future = GzipFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let headers = request.headers_mut();
        let encoding = headers.get(ENCODING).filter(|_| self.is_on);
        let is_gzip = encoding.is_some_and(|encoding| encoding == GZIP);
        let accepts = headers.get(ACCEPT_ENCODING).filter(|_| self.is_on);
        let names_encodings = encoding.is_some() || accepts.is_some();
        let takes_gzip = accepts.is_some_and(accepts_gzip);
        if is_gzip {
            headers.remove(ENCODING);
        }
        let budget =
            is_gzip.then(|| DecompressionBudget::new(self.max_size, request.extensions().get().cloned()));
        let connection = takes_gzip.then(|| request.extensions().get().cloned());
        let call = self.inner.call(request.map(|body| Decompressed::new(body, budget.clone())));
        GzipFuture { call, budget, names_encodings, connection }
    }
}

fn accepts_gzip(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|name| name.trim_ascii() == b"gzip")
}

pin_project! {
    /// The future of a call.
    pub(super) struct GzipFuture<F> {
        #[pin]
        call: F,
        // Decompressed messages count for as long as they are processed.
        budget: Option<DecompressionBudget>,
        // Whether the request names any encoding.
        names_encodings: bool,
        // The connection of a caller that accepts gzip.
        connection: Option<Option<Arc<PeerConnection>>>,
    }
}

impl<F, R> Future for GzipFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<Compressed<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.call.poll(cx));
        *this.budget = None;
        let head = response.headers_mut();
        if *this.names_encodings {
            // A service may have named further encodings.
            let accepted = head.get(ACCEPT_ENCODING).map_or(ACCEPTED, with_gzip);
            head.insert(ACCEPT_ENCODING, accepted);
        }
        let connection = this.connection.take().filter(|_| has_messages(head));
        if connection.is_some() {
            head.insert(ENCODING, GZIP);
        }
        Poll::Ready(Ok(response.map(|body| Compressed::new(body, connection))))
    }
}

/// Returns whether uncompressed messages follow.
fn has_messages(head: &HeaderMap) -> bool {
    !head.contains_key(GRPC_STATUS) && !head.contains_key(ENCODING)
}

fn with_gzip(known: &HeaderValue) -> HeaderValue {
    if accepts_gzip(known) {
        return known.clone();
    }
    let joined = [b"gzip,", known.as_bytes()].concat();
    HeaderValue::from_bytes(&joined).unwrap_or(ACCEPTED)
}
