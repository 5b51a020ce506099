//! A request's message arrives before anything is done for it.
//!
//! Of a method that takes one message, the handler and whatever stands before
//! it (its admission) see the request when the whole message is here: a peer
//! that sends headers and then nothing takes no place from anybody. A message
//! that is not here whole holds as many of the server's bytes as it announces
//! ([`peers`](super::peers)), is not read before there is room for it, and has
//! [`ServerConfig::receive_timeout`] to arrive. So has each message of a stream,
//! from its first byte on.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower_service::Service;

use super::{
    is_built_in,
    peers::{PeerConnection, Share},
    screen::Served,
};
use crate::ServerConfig;

mod meter;

use meter::{Limits, Metered};

/// The largest message that the built-in services take, in bytes: a name.
const MAX_BUILT_IN: usize = 64 << 10;

/// Has requests arrive for the service within.
#[derive(Clone, Debug)]
pub(super) struct Receive<S> {
    inner: S,
    served: Arc<Served>,
    limits: Limits,
}

impl<S> Receive<S> {
    pub(super) fn new(inner: S, served: Arc<Served>, config: &ServerConfig) -> Self {
        let limits = Limits { max_bytes: config.max_message_size, timeout: config.receive_timeout };
        Self { inner, served, limits }
    }
}

impl<S, B, R> Service<Request<B>> for Receive<S>
where
    S: Service<Request<Received<B>>, Response = Response<R>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = Status> + Unpin,
    R: Default,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Call<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let takes_one = self.served.kind(path).is_some_and(|kind| !kind.client_streaming);
        let mut limits = self.limits;
        if is_built_in(path) {
            limits.max_bytes = limits.max_bytes.min(MAX_BUILT_IN);
        }
        let connection = request.extensions().get::<Arc<PeerConnection>>().cloned();
        let (head, body) = request.into_parts();
        let body = Metered::new(body, limits, takes_one, connection);
        if takes_one {
            let receiving = Receiving { body, whole: Whole::default(), head, inner: self.inner.clone() };
            return Call::Receiving { receiving: Some(receiving) };
        }
        let body = Received { whole: None, rest: Some(body) };
        Call::Under { call: self.inner.call(Request::from_parts(head, body)), share: None }
    }
}

/// A request whose message is not here whole.
pub(super) struct Receiving<S, B> {
    body: Metered<B>,
    whole: Whole,
    head: Parts,
    inner: S,
}

impl<S, B> Receiving<S, B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    /// Reads until the message is here, or is followed by what should not be.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        while !self.body.is_end_stream() && !self.body.has_second() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.whole.push(data, self.body.announced());
                    }
                }
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Calls the service.
    fn begin<R>(mut self) -> Call<S, B, S::Future>
    where
        S: Service<Request<Received<B>>, Response = Response<R>, Error = Infallible>,
    {
        let share = self.body.take_share();
        let rest = self.body.has_second().then_some(self.body);
        let body = Received { whole: self.whole.freeze(), rest };
        // Ready when the request came, and routes always are.
        Call::Under { call: self.inner.call(Request::from_parts(self.head, body)), share }
    }
}

/// What has arrived of a message.
#[derive(Debug, Default)]
struct Whole {
    /// Most messages arrive in one frame, which is handed on as it is.
    first: Bytes,
    /// All frames, once there are several: a frame may be as small as a byte.
    all: BytesMut,
}

impl Whole {
    /// `announced`: how many bytes there will be.
    fn push(&mut self, data: Bytes, announced: usize) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(announced);
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
    }

    fn freeze(self) -> Option<Bytes> {
        let whole = if self.all.is_empty() { self.first } else { self.all.freeze() };
        (!whole.is_empty()).then_some(whole)
    }
}

pin_project! {
    /// One call, until its response begins.
    #[project = CallProjection]
    pub(super) enum Call<S, B, F> {
        Receiving { receiving: Option<Receiving<S, B>> },
        // The message counts for as long as it is worked on.
        Under { #[pin] call: F, share: Option<Share> },
    }
}

impl<S, B, R> Future for Call<S, B, S::Future>
where
    S: Service<Request<Received<B>>, Response = Response<R>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Status> + Unpin,
    R: Default,
{
    type Output = Result<Response<R>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                CallProjection::Receiving { receiving } => {
                    let arrived = receiving.as_mut().map_or(Poll::Pending, |receiving| receiving.poll(cx));
                    match (ready!(arrived), receiving.take()) {
                        (Ok(()), Some(receiving)) => receiving.begin(),
                        (Err(status), _) => return Poll::Ready(Ok(status.into_http())),
                        (Ok(()), None) => return Poll::Pending,
                    }
                }
                CallProjection::Under { call, share } => {
                    let answered = ready!(call.poll(cx));
                    drop(share.take());
                    return Poll::Ready(answered);
                }
            };
            self.set(next);
        }
    }
}

/// A request's body, the part that has arrived first.
#[derive(Debug)]
pub(super) struct Received<B> {
    whole: Option<Bytes>,
    rest: Option<Metered<B>>,
}

impl<B> Body for Received<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(whole) = self.whole.take() {
            return Poll::Ready(Some(Ok(Frame::data(whole))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.whole.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
