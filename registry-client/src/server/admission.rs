//! Admission control: an overloaded server rejects excess calls, early and
//! cheaply, and serves the others.
//!
//! Each unary method has a concurrency limit that follows its latency
//! (`gradient`), and a short queue (`limiter`). A call that would wait longer
//! than the queue allows, or than its caller does (`grpc-timeout`), is rejected
//! with `RESOURCE_EXHAUSTED` and `google.rpc.RetryInfo`, on arrival where that
//! is certain. Streaming methods share one fixed limit, because their duration
//! says nothing about load, and so does reflection; health has none.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};
use tower_service::Service;

use super::{content_type::is_grpc, peers::PeerConnection, state::MethodState};
use crate::{
    AdmissionConfig, Error,
    policy::{retry, timeout},
};

mod gradient;
mod limiter;
mod methods;

use gradient::CallEnd;
use limiter::{Decision, Permit, Rejection};
use methods::{MethodClass, MethodLimiters};

/// The retry delay of a rejected caller: about this, spread by half.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The admission control of a server; `None` admits every call. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    methods: MethodLimiters,
    /// The registered name, for error details.
    server: String,
}

impl Admission {
    /// The admission of `server`, whose `services` are described by
    /// `descriptors`.
    ///
    /// # Errors
    /// When a descriptor set cannot be decoded.
    pub(super) fn new(
        config: Option<&AdmissionConfig>,
        server: &str,
        services: &[&'static str],
        descriptors: &[&'static [u8]],
    ) -> Result<Self, Error> {
        let Some(config) = config else { return Ok(Self { shared: None }) };
        let methods = MethodLimiters::new(config, services, descriptors)?;
        Ok(Self { shared: Some(Arc::new(Shared { methods, server: server.to_owned() })) })
    }

    /// The load of each method, by name.
    pub(super) fn state(&self) -> Vec<MethodState> {
        self.shared.as_ref().map(|shared| shared.methods.state()).unwrap_or_default()
    }

    /// The response to a call that can neither run nor wait; `None` lets it
    /// proceed. Costs a fraction of a response that passes a task and every
    /// layer.
    ///
    /// Only a complete request is rejected here: `h2` counts data after the
    /// response as an error of the peer, and closes a connection with many.
    pub(super) fn reject<B>(
        &self,
        request: &Request<B>,
        peer: IpAddr,
        is_complete: impl FnOnce() -> bool,
    ) -> Option<Response<()>> {
        let shared = self.shared.as_ref()?;
        let (MethodClass::Unary(limiter) | MethodClass::Streaming(limiter)) =
            shared.methods.find_class(request.uri().path())?
        else {
            return None;
        };
        let reason = limiter.reject_reason(peer, caller_timeout(request.headers()))?;
        if !is_grpc(request) || !is_complete() {
            return None;
        }
        let mut head = Response::new(());
        *head.headers_mut() = limiter.reject_response(reason, |rejection| {
            shared.status(rejection).into_http::<()>().into_parts().0.headers
        });
        Some(head)
    }

    /// The service `inner` behind this admission control.
    pub(super) fn layer<S>(self, inner: S) -> AdmissionService<S> {
        AdmissionService { inner, admission: self }
    }
}

impl Shared {
    fn status(&self, rejection: &Rejection) -> Status {
        let spread = 0.5 + fastrand::f64();
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(RETRY_AFTER.mul_f64(spread)));
        let mut facts = HashMap::from([
            ("method".to_owned(), rejection.name.to_string()),
            ("under_way".to_owned(), rejection.in_flight.to_string()),
            ("limit".to_owned(), rejection.limit.to_string()),
        ]);
        facts.extend(rejection.of_peer.map(|of_peer| ("under_way_of_peer".to_owned(), of_peer.to_string())));
        details.set_error_info("OVERLOADED", &self.server, facts);
        let mut status = Status::with_error_details(Code::ResourceExhausted, rejection.to_string(), details);
        // So that a channel may try another instance, whatever the method.
        status.metadata_mut().insert(retry::REJECTED, MetadataValue::from_static("1"));
        status
    }
}

/// A service behind admission control.
#[derive(Clone, Debug)]
pub(super) struct AdmissionService<S> {
    inner: S,
    admission: Admission,
}

impl<S, B, R> Service<Request<B>> for AdmissionService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone,
    R: Body,
{
    type Response = Response<AdmittedBody<R>>;
    type Error = Infallible;
    type Future = AdmissionFuture<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let class =
            self.admission.shared.as_ref().map(|shared| (shared, shared.methods.class(request.uri().path())));
        let (shared, limiter, stream) = match class {
            None | Some((_, MethodClass::Exempt)) => {
                return AdmissionFuture::Running {
                    call: self.inner.call(request),
                    permit: None,
                    stream: false,
                };
            }
            Some((shared, MethodClass::Unary(limiter))) => (shared, limiter, false),
            Some((shared, MethodClass::Streaming(limiter))) => (shared, limiter, true),
        };
        let peer = request.extensions().get::<Arc<PeerConnection>>().map(|connection| connection.address());
        match limiter.admit(peer, caller_timeout(request.headers())) {
            Decision::Admitted(permit) => {
                AdmissionFuture::Running { call: self.inner.call(request), permit: Some(permit), stream }
            }
            Decision::Queued(permit_future) => {
                let queued =
                    QueuedCall { inner: self.inner.clone(), request, shared: shared.clone(), stream };
                AdmissionFuture::Queued { permit_future: Box::pin(permit_future), queued: Some(queued) }
            }
            Decision::Rejected(rejection) => {
                AdmissionFuture::Rejected { status: Some(shared.status(&rejection)) }
            }
        }
    }
}

/// The caller's timeout. A malformed one was rejected before.
fn caller_timeout(headers: &HeaderMap) -> Option<Duration> {
    timeout::parse(headers.get("grpc-timeout")?.as_bytes())
}

type PermitFuture = Pin<Box<dyn Future<Output = Result<Permit, Rejection>> + Send>>;

pin_project! {
    /// The future of an admitted, queued or rejected call.
    #[project = AdmissionProjection]
    pub(super) enum AdmissionFuture<S, B, F> {
        Queued { permit_future: PermitFuture, queued: Option<QueuedCall<S, B>> },
        Running { #[pin] call: F, permit: Option<Permit>, stream: bool },
        Rejected { status: Option<Status> },
    }
}

/// A call in the queue.
pub(super) struct QueuedCall<S, B> {
    inner: S,
    request: Request<B>,
    shared: Arc<Shared>,
    stream: bool,
}

impl<S, B, R> Future for AdmissionFuture<S, B, S::Future>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Output = Result<Response<AdmittedBody<R>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                AdmissionProjection::Queued { permit_future, queued } => {
                    let permit = ready!(permit_future.as_mut().poll(cx));
                    match (permit, queued.take()) {
                        (Ok(permit), Some(mut queued)) => Self::Running {
                            // The service was ready when the call arrived, and
                            // routes always are.
                            call: queued.inner.call(queued.request),
                            permit: Some(permit),
                            stream: queued.stream,
                        },
                        (Err(rejection), Some(queued)) => {
                            Self::Rejected { status: Some(queued.shared.status(&rejection)) }
                        }
                        (_, None) => Self::Rejected { status: None },
                    }
                }
                AdmissionProjection::Running { call, permit, stream } => {
                    let Ok(response) = ready!(call.poll(cx));
                    let mut permit = permit.take();
                    if !*stream && let Some(permit) = &mut permit {
                        permit.complete(ended(response.headers()));
                    }
                    return Poll::Ready(Ok(response.map(|body| AdmittedBody { body: Some(body), permit })));
                }
                AdmissionProjection::Rejected { status } => {
                    let status = status.take().unwrap_or_else(|| Status::internal("polled after its answer"));
                    let (parts, ()) = status.into_http::<()>().into_parts();
                    return Poll::Ready(Ok(Response::from_parts(
                        parts,
                        AdmittedBody { body: None, permit: None },
                    )));
                }
            };
            self.set(next);
        }
    }
}

/// The end of a call by the head of its response: a handler that fails sends
/// only a status.
fn ended(head: &HeaderMap) -> CallEnd {
    if head.contains_key("grpc-status") { CallEnd::Failed } else { CallEnd::Completed }
}

pin_project! {
    /// A response body, which holds the permit of its call until it was read.
    #[derive(Debug)]
    pub(super) struct AdmittedBody<R> {
        #[pin]
        body: Option<R>,
        permit: Option<Permit>,
    }
}

impl<R> Default for AdmittedBody<R> {
    /// An empty body.
    fn default() -> Self {
        Self { body: None, permit: None }
    }
}

impl<R: Body> Body for AdmittedBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
