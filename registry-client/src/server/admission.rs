//! A server that has more to do than it can refuses what is too much, at once
//! and cheaply, and goes on doing what it can.
//!
//! Each unary method has a limit of calls under way that follows its latency
//! (`gradient`), and a short queue before it (`gate`). A call that would wait
//! longer than the queue allows, or than its caller does (`grpc-timeout`), is
//! answered with `RESOURCE_EXHAUSTED` and `google.rpc.RetryInfo`: where that is
//! certain as soon as it is here, before anything else is done for it. Streaming
//! methods have one fixed limit, for how long they take says nothing, and so has
//! reflection; health has none.

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

mod gate;
mod gradient;
mod methods;

use gate::{Entry, Refusal, Ticket};
use gradient::Ended;
use methods::{Methods, Way};

/// When a refused caller may try again: about this, spread by half.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What stands before a server's services; `None` lets everything in. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    methods: Methods,
    /// Who refuses: the registered name.
    server: String,
}

impl Admission {
    /// The admission of `server`, whose `services` are described by
    /// `descriptors`.
    ///
    /// # Errors
    /// When a descriptor set is not one.
    pub(super) fn new(
        config: Option<&AdmissionConfig>,
        server: &str,
        services: &[&'static str],
        descriptors: &[&'static [u8]],
    ) -> Result<Self, Error> {
        let Some(config) = config else { return Ok(Self { shared: None }) };
        let methods = Methods::new(config, services, descriptors)?;
        Ok(Self { shared: Some(Arc::new(Shared { methods, server: server.to_owned() })) })
    }

    /// How much each method has to do, by name.
    pub(super) fn state(&self) -> Vec<MethodState> {
        self.shared.as_ref().map(|shared| shared.methods.state()).unwrap_or_default()
    }

    /// The response to a call for which there is no room and none to wait for it;
    /// `None` lets it go on to its method. Costs a fraction of a response that a
    /// task and every layer had a part in.
    ///
    /// A request is looked at only when all of it is here: `h2` takes what arrives
    /// after a response for a fault of the peer, and closes a connection that has
    /// many.
    pub(super) fn reject<B>(
        &self,
        request: &Request<B>,
        peer: IpAddr,
        is_here: impl FnOnce() -> bool,
    ) -> Option<Response<()>> {
        let shared = self.shared.as_ref()?;
        let (Way::Call(gate) | Way::Stream(gate)) = shared.methods.find(request.uri().path())? else {
            return None;
        };
        let lack = gate.lack(peer, caller_timeout(request.headers()))?;
        if !is_grpc(request) || !is_here() {
            return None;
        }
        let mut head = Response::new(());
        *head.headers_mut() =
            gate.reject(lack, |refusal| shared.status(refusal).into_http::<()>().into_parts().0.headers);
        Some(head)
    }

    /// The service `inner` behind it.
    pub(super) fn before<S>(self, inner: S) -> Admitted<S> {
        Admitted { inner, admission: self }
    }
}

impl Shared {
    fn status(&self, refusal: &Refusal) -> Status {
        let spread = 0.5 + fastrand::f64();
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(RETRY_AFTER.mul_f64(spread)));
        let mut facts = HashMap::from([
            ("method".to_owned(), refusal.name.to_string()),
            ("under_way".to_owned(), refusal.under_way.to_string()),
            ("limit".to_owned(), refusal.limit.to_string()),
        ]);
        facts.extend(refusal.of_peer.map(|of_peer| ("under_way_of_peer".to_owned(), of_peer.to_string())));
        details.set_error_info("OVERLOADED", &self.server, facts);
        let mut status = Status::with_error_details(Code::ResourceExhausted, refusal.to_string(), details);
        // So that a channel may try another instance, whatever the method.
        status.metadata_mut().insert(retry::REJECTED, MetadataValue::from_static("1"));
        status
    }
}

/// A service that is called only by what the admission lets in.
#[derive(Clone, Debug)]
pub(super) struct Admitted<S> {
    inner: S,
    admission: Admission,
}

impl<S, B, R> Service<Request<B>> for Admitted<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone,
    R: Body,
{
    type Response = Response<Held<R>>;
    type Error = Infallible;
    type Future = Call<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let way =
            self.admission.shared.as_ref().map(|shared| (shared, shared.methods.way(request.uri().path())));
        let (shared, gate, stream) = match way {
            None | Some((_, Way::Free)) => {
                return Call::Under { call: self.inner.call(request), ticket: None, stream: false };
            }
            Some((shared, Way::Call(gate))) => (shared, gate, false),
            Some((shared, Way::Stream(gate))) => (shared, gate, true),
        };
        let peer = request.extensions().get::<Arc<PeerConnection>>().map(|connection| connection.address());
        match gate.enter(peer, caller_timeout(request.headers())) {
            Entry::In(ticket) => Call::Under { call: self.inner.call(request), ticket: Some(ticket), stream },
            Entry::Wait(turn) => {
                let waiting = Waiting { inner: self.inner.clone(), request, shared: shared.clone(), stream };
                Call::Waiting { turn: Box::pin(turn), waiting: Some(waiting) }
            }
            Entry::Refused(refusal) => Call::Refused { status: Some(shared.status(&refusal)) },
        }
    }
}

/// How long the caller waits. One that cannot be read was refused before.
fn caller_timeout(headers: &HeaderMap) -> Option<Duration> {
    timeout::parse(headers.get("grpc-timeout")?.as_bytes())
}

type Turn = Pin<Box<dyn Future<Output = Result<Ticket, Refusal>> + Send>>;

pin_project! {
    /// One call, until its response begins.
    #[project = CallProjection]
    pub(super) enum Call<S, B, F> {
        Waiting { turn: Turn, waiting: Option<Waiting<S, B>> },
        Under { #[pin] call: F, ticket: Option<Ticket>, stream: bool },
        Refused { status: Option<Status> },
    }
}

/// What is called when a call's turn has come.
pub(super) struct Waiting<S, B> {
    inner: S,
    request: Request<B>,
    shared: Arc<Shared>,
    stream: bool,
}

impl<S, B, R> Future for Call<S, B, S::Future>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Output = Result<Response<Held<R>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                CallProjection::Waiting { turn, waiting } => {
                    let ticket = ready!(turn.as_mut().poll(cx));
                    match (ticket, waiting.take()) {
                        (Ok(ticket), Some(mut waiting)) => Self::Under {
                            // Ready when the call came, and routes always are.
                            call: waiting.inner.call(waiting.request),
                            ticket: Some(ticket),
                            stream: waiting.stream,
                        },
                        (Err(refusal), Some(waiting)) => {
                            Self::Refused { status: Some(waiting.shared.status(&refusal)) }
                        }
                        (_, None) => Self::Refused { status: None },
                    }
                }
                CallProjection::Under { call, ticket, stream } => {
                    let Ok(answer) = ready!(call.poll(cx));
                    let mut ticket = ticket.take();
                    if !*stream && let Some(ticket) = &mut ticket {
                        ticket.answer(ended(answer.headers()));
                    }
                    return Poll::Ready(Ok(answer.map(|body| Held { body: Some(body), ticket })));
                }
                CallProjection::Refused { status } => {
                    let status = status.take().unwrap_or_else(|| Status::internal("polled after its answer"));
                    let (parts, ()) = status.into_http::<()>().into_parts();
                    return Poll::Ready(Ok(Response::from_parts(parts, Held { body: None, ticket: None })));
                }
            };
            self.set(next);
        }
    }
}

/// A handler that fails answers with a status and no message.
fn ended(head: &HeaderMap) -> Ended {
    if head.contains_key("grpc-status") { Ended::Failed } else { Ended::Answered }
}

pin_project! {
    /// A response's body, which is under way until it was taken.
    #[derive(Debug)]
    pub(super) struct Held<R> {
        #[pin]
        body: Option<R>,
        ticket: Option<Ticket>,
    }
}

impl<R> Default for Held<R> {
    /// Nothing, which is at its end.
    fn default() -> Self {
        Self { body: None, ticket: None }
    }
}

impl<R: Body> Body for Held<R> {
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
