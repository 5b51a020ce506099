//! The limits on the messages of a request: their size, their share of buffered
//! bytes, and their time to arrive.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::super::peers::{PeerConnection, Share, ShareExceeded};
use crate::framing::{Framing, Violation};

/// The limits of messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageLimits {
    pub(super) max_bytes: usize,
    /// The longest time for a message to arrive.
    pub(super) timeout: Duration,
}

/// A request body with bounded messages.
#[derive(Debug)]
pub(in crate::server) struct Metered<B> {
    body: B,
    framing: Framing,
    timeout: Duration,
    /// True if the request has one message, which is buffered until it is
    /// complete.
    has_unary_request: bool,
    /// The connection whose share is taken; `None` takes none.
    connection: Option<Arc<PeerConnection>>,
    share: Option<Share>,
    waiting: Option<WaitingData>,
    /// Created when a message is not there at once; most never need it.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A frame whose message waits for its peer's share.
struct WaitingData {
    data: Bytes,
    share_future: Pin<Box<dyn Future<Output = Result<Share, ShareExceeded>> + Send>>,
}

impl<B> Metered<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    pub(super) fn new(
        body: B,
        limits: MessageLimits,
        has_unary_request: bool,
        connection: Option<Arc<PeerConnection>>,
    ) -> Self {
        Self {
            body,
            framing: Framing::up_to(limits.max_bytes),
            timeout: limits.timeout,
            has_unary_request,
            connection,
            share: None,
            waiting: None,
            timer: None,
        }
    }

    /// The size of the message that began last.
    pub(super) fn announced(&self) -> usize {
        self.framing.size()
    }

    /// Returns whether more than one message has begun.
    pub(super) fn has_second(&self) -> bool {
        self.framing.messages() > 1
    }

    /// The share that the message holds.
    pub(super) fn take_share(&mut self) -> Option<Share> {
        self.share.take()
    }

    /// Returns whether a message is awaited that must arrive in time.
    fn is_due(&self) -> bool {
        self.has_unary_request || !self.framing.is_between_messages()
    }

    /// Claims a share for the message that `data` belongs to; `None` if it has
    /// to wait.
    fn claim_share(&mut self, data: Bytes) -> Option<Bytes> {
        let is_complete =
            self.framing.is_between_messages() && (!self.has_unary_request || self.body.is_end_stream());
        if is_complete {
            (self.share, self.timer) = (None, None);
            return Some(data);
        }
        let (size, connection) = (self.framing.size(), self.connection.as_ref());
        let has_share =
            self.framing.messages() == 0 || self.share.as_ref().is_some_and(|share| share.amount() >= size);
        let Some(connection) = connection.filter(|_| !has_share) else { return Some(data) };
        // The share of the previous message is released first.
        self.share = None;
        match connection.claim_bytes(size) {
            Some(share) => {
                self.share = Some(share);
                Some(data)
            }
            None => {
                self.waiting = Some(WaitingData {
                    data,
                    share_future: Box::pin(connection.clone().wait_for_bytes(size)),
                });
                None
            }
        }
    }

    /// Ready when the message has timed out.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let timeout = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(match self.waiting {
            Some(_) => ShareExceeded::Busy.into_status(),
            None => {
                Status::deadline_exceeded(format!("the request's message has not arrived within {timeout:?}"))
            }
        })
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(violation) = this.framing.pass(&data) {
                            return Poll::Ready(Some(Err(violated(violation))));
                        }
                        if let Some(data) = this.claim_share(data) {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    }
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Pending if this.is_due() => {
                    return this.poll_late(cx).map(|status| Some(Err(status)));
                }
                polled => return polled,
            }
        }
        let Some(WaitingData { data, share_future }) = &mut this.waiting else { return Poll::Pending };
        match share_future.as_mut().poll(cx) {
            Poll::Ready(Ok(share)) => {
                let data = std::mem::take(data);
                (this.share, this.waiting) = (Some(share), None);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Err(why)) => Poll::Ready(Some(Err(why.into_status()))),
            Poll::Pending => this.poll_late(cx).map(|status| Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }
}

fn violated(violation: Violation) -> Status {
    let why = format!("the request has {violation}");
    match violation {
        Violation::TooLarge { .. } => Status::resource_exhausted(why),
        Violation::Compressed | Violation::Flag(_) | Violation::Second => Status::internal(why),
    }
}

impl fmt::Debug for WaitingData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocked").field("bytes", &self.data.len()).finish_non_exhaustive()
    }
}
