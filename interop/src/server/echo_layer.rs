//! The layer of the test service below tonic: it records the compressed flags
//! of requests, and echoes metadata into headers and trailers.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use pin_project_lite::pin_project;
use tonic::{body::Body, server::NamedService};
use tower_service::Service;

use crate::prefixes::{Flags, ScannedBody};

/// Request metadata that is echoed in the response's headers.
const INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");
/// Request metadata that is echoed in the trailers.
const TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");

/// A generated service with this layer.
#[derive(Clone, Debug)]
pub(super) struct EchoLayer<S> {
    service: S,
}

impl<S> EchoLayer<S> {
    pub(super) fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S: NamedService> NamedService for EchoLayer<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for EchoLayer<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<EchoBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let flags = Flags::default();
        let initial = request.headers().get(&INITIAL).cloned();
        let trailing = request.headers().get(&TRAILING).cloned();
        let mut request = request.map(|body| Body::new(ScannedBody::new(body, flags.clone())));
        request.extensions_mut().insert(flags);
        let response = self.service.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if let Some(initial) = initial {
                response.headers_mut().insert(INITIAL, initial);
            }
            Ok(response.map(|body| EchoBody { body, trailing }))
        })
    }
}

pin_project! {
    /// A response body that adds metadata to its trailers.
    #[derive(Debug)]
    pub(super) struct EchoBody {
        #[pin]
        body: Body,
        trailing: Option<HeaderValue>,
    }
}

impl http_body::Body for EchoBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = self.project();
        let mut polled = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
            && let Some(trailing) = this.trailing.take()
        {
            trailers.insert(TRAILING, trailing);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
