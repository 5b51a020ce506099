//! Panics of handlers, which end their own call with INTERNAL and nothing else.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower_service::Service;
use tracing::error;

use super::deadline::trailers;

/// A middleware that catches panics.
#[derive(Clone, Debug)]
pub(super) struct CatchPanic<S> {
    inner: S,
}

impl<S> CatchPanic<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for CatchPanic<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = Response<CatchPanicBody<R>>;
    type Error = Infallible;
    type Future = CatchPanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.uri().clone();
        // Unwind safe: the state of the call is dropped.
        let call = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let call = call.inspect_err(|panic| log(&method, &**panic)).ok();
        CatchPanicFuture { call, method }
    }
}

pin_project! {
    /// The future of a call; `None` once it has panicked.
    pub(super) struct CatchPanicFuture<F> {
        #[pin]
        call: Option<F>,
        method: Uri,
    }
}

impl<F, R> Future for CatchPanicFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<CatchPanicBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            match catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
                Ok(response) => {
                    let caught = |body| CatchPanicBody { body: Some(body), method: mem::take(this.method) };
                    return response.map_ok(|response| response.map(caught));
                }
                Err(panic) => log(this.method, &*panic),
            }
            this.call.set(None);
        }
        let (parts, ()) = failed().into_http::<()>().into_parts();
        Poll::Ready(Ok(Response::from_parts(parts, CatchPanicBody { body: None, method: Uri::default() })))
    }
}

pin_project! {
    /// A response body; `None` once it has panicked.
    #[derive(Debug)]
    pub(super) struct CatchPanicBody<R> {
        #[pin]
        body: Option<R>,
        method: Uri,
    }
}

impl<R: Body> Body for CatchPanicBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) {
            Ok(frame) => frame,
            Err(panic) => {
                log(this.method, &*panic);
                this.body.set(None);
                Poll::Ready(Some(Ok(Frame::trailers(trailers(&failed())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The status for the peer; the log has the cause.
fn failed() -> Status {
    Status::internal("the handler of this call panicked")
}

fn log(method: &Uri, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    error!(method = method.path(), panic = text, "a handler panicked: {text}");
}
