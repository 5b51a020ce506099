//! The buffering of request messages before their handlers run.
//!
//! A method with a unary request, and its admission control, see the request
//! when the whole message has arrived: a peer that sends only headers takes no
//! capacity. An incomplete message takes as many bytes of its peer's share as
//! it announces ([`peers`](super::peers)), is not read before the share allows
//! it, and has [`ServerConfig::receive_timeout`] to arrive. The same timeout
//! applies to each message of a stream, from its first byte.

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
    correct_status::Served,
    is_built_in,
    peers::{PeerConnection, Share},
};
use crate::ServerConfig;

mod meter;

use meter::{MessageLimits, Metered};

/// The largest message of the built-in services, in bytes: it holds a name.
const MAX_BUILT_IN_MESSAGE: usize = 64 << 10;

/// A middleware that buffers unary requests and bounds all messages.
#[derive(Clone, Debug)]
pub(super) struct Receive<S> {
    inner: S,
    served: Arc<Served>,
    limits: MessageLimits,
}

impl<S> Receive<S> {
    pub(super) fn new(inner: S, served: Arc<Served>, config: &ServerConfig) -> Self {
        let limits = MessageLimits { max_bytes: config.max_message_size, timeout: config.receive_timeout };
        Self { inner, served, limits }
    }
}

impl<S, B, R> Service<Request<B>> for Receive<S>
where
    S: Service<Request<ReceivedBody<B>>, Response = Response<R>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = Status> + Unpin,
    R: Default,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = ReceiveFuture<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let has_unary_request = self.served.kind(path).is_some_and(|kind| !kind.client_streaming);
        let mut limits = self.limits;
        if is_built_in(path) {
            limits.max_bytes = limits.max_bytes.min(MAX_BUILT_IN_MESSAGE);
        }
        let connection = request.extensions().get::<Arc<PeerConnection>>().cloned();
        let (head, body) = request.into_parts();
        let body = Metered::new(body, limits, has_unary_request, connection);
        if has_unary_request {
            let receiving =
                Receiving { body, message: MessageBuffer::default(), head, inner: self.inner.clone() };
            return ReceiveFuture::Receiving { receiving: Some(receiving) };
        }
        let body = ReceivedBody { message: None, rest: Some(body) };
        ReceiveFuture::Running { call: self.inner.call(Request::from_parts(head, body)), share: None }
    }
}

/// A request whose message has not arrived completely.
pub(super) struct Receiving<S, B> {
    body: Metered<B>,
    message: MessageBuffer,
    head: Parts,
    inner: S,
}

impl<S, B> Receiving<S, B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    /// Reads until the message is complete, or is followed by a second one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        while !self.body.is_end_stream() && !self.body.has_second() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.message.push(data, self.body.announced());
                    }
                }
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Calls the service.
    fn call_inner<R>(mut self) -> ReceiveFuture<S, B, S::Future>
    where
        S: Service<Request<ReceivedBody<B>>, Response = Response<R>, Error = Infallible>,
    {
        let share = self.body.take_share();
        let rest = self.body.has_second().then_some(self.body);
        let body = ReceivedBody { message: self.message.freeze(), rest };
        // The service was ready when the request arrived, and routes always
        // are.
        ReceiveFuture::Running { call: self.inner.call(Request::from_parts(self.head, body)), share }
    }
}

/// The part of a message that has arrived.
#[derive(Debug, Default)]
struct MessageBuffer {
    /// The first frame; most messages have only one, which is passed on as it
    /// is.
    first: Bytes,
    /// All frames, once there are several: a frame may be a single byte.
    all: BytesMut,
}

impl MessageBuffer {
    /// Adds a frame of a message with `announced` bytes.
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
        let message = if self.all.is_empty() { self.first } else { self.all.freeze() };
        (!message.is_empty()).then_some(message)
    }
}

pin_project! {
    /// The future of a call.
    #[project = ReceiveProjection]
    pub(super) enum ReceiveFuture<S, B, F> {
        Receiving { receiving: Option<Receiving<S, B>> },
        // The message counts for as long as it is processed.
        Running { #[pin] call: F, share: Option<Share> },
    }
}

impl<S, B, R> Future for ReceiveFuture<S, B, S::Future>
where
    S: Service<Request<ReceivedBody<B>>, Response = Response<R>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Status> + Unpin,
    R: Default,
{
    type Output = Result<Response<R>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                ReceiveProjection::Receiving { receiving } => {
                    let arrived = receiving.as_mut().map_or(Poll::Pending, |receiving| receiving.poll(cx));
                    match (ready!(arrived), receiving.take()) {
                        (Ok(()), Some(receiving)) => receiving.call_inner(),
                        (Err(status), _) => return Poll::Ready(Ok(status.into_http())),
                        (Ok(()), None) => return Poll::Pending,
                    }
                }
                ReceiveProjection::Running { call, share } => {
                    let answered = ready!(call.poll(cx));
                    drop(share.take());
                    return Poll::Ready(answered);
                }
            };
            self.set(next);
        }
    }
}

/// A request body: the buffered message, then the rest.
#[derive(Debug)]
pub(super) struct ReceivedBody<B> {
    message: Option<Bytes>,
    rest: Option<Metered<B>>,
}

impl<B> Body for ReceivedBody<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.message.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
