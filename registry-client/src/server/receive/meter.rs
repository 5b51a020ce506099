//! How large a request's messages are, how much room they take, and how long
//! they may take to arrive.

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

use super::super::peers::{NoRoom, PeerConnection, Share};
use crate::framing::{Framing, Violation};

/// What messages must obey.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_bytes: usize,
    /// How long one may take to arrive.
    pub(super) timeout: Duration,
}

/// A request's body, whose messages are bounded.
#[derive(Debug)]
pub(in crate::server) struct Metered<B> {
    body: B,
    framing: Framing,
    timeout: Duration,
    /// True if there is one message, which is held until it is whole.
    takes_one: bool,
    /// Whose room is taken; `None` takes none.
    connection: Option<Arc<PeerConnection>>,
    share: Option<Share>,
    blocked: Option<Blocked>,
    /// Made when a message is late; most never need it.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A frame that has arrived and for whose message there is no room yet.
struct Blocked {
    data: Bytes,
    room: Pin<Box<dyn Future<Output = Result<Share, NoRoom>> + Send>>,
}

impl<B> Metered<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    pub(super) fn new(
        body: B,
        limits: Limits,
        takes_one: bool,
        connection: Option<Arc<PeerConnection>>,
    ) -> Self {
        Self {
            body,
            framing: Framing::up_to(limits.max_bytes),
            timeout: limits.timeout,
            takes_one,
            connection,
            share: None,
            blocked: None,
            timer: None,
        }
    }

    /// The bytes of the message that began last.
    pub(super) fn announced(&self) -> usize {
        self.framing.size()
    }

    /// Returns whether more messages have begun than one.
    pub(super) fn has_second(&self) -> bool {
        self.framing.messages() > 1
    }

    /// What its message holds.
    pub(super) fn take_share(&mut self) -> Option<Share> {
        self.share.take()
    }

    /// Returns whether a message is awaited that must arrive in time.
    fn is_due(&self) -> bool {
        self.takes_one || !self.framing.is_between_messages()
    }

    /// Takes room for the message that `data` belongs to; `None` where it has to
    /// be waited for.
    fn take_room(&mut self, data: Bytes) -> Option<Bytes> {
        let is_here = self.framing.is_between_messages() && (!self.takes_one || self.body.is_end_stream());
        if is_here {
            (self.share, self.timer) = (None, None);
            return Some(data);
        }
        let (size, connection) = (self.framing.size(), self.connection.as_ref());
        let has_room =
            self.framing.messages() == 0 || self.share.as_ref().is_some_and(|share| share.amount() >= size);
        let Some(connection) = connection.filter(|_| !has_room) else { return Some(data) };
        // That of the message before is free first.
        self.share = None;
        match connection.claim_bytes(size) {
            Some(share) => {
                self.share = Some(share);
                Some(data)
            }
            None => {
                self.blocked =
                    Some(Blocked { data, room: Box::pin(connection.clone().wait_for_bytes(size)) });
                None
            }
        }
    }

    /// Waits for no longer than a message may take.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let timeout = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(match self.blocked {
            Some(_) => NoRoom::Busy.refused(),
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
        if this.blocked.is_none() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(violation) = this.framing.pass(&data) {
                            return Poll::Ready(Some(Err(violated(violation))));
                        }
                        if let Some(data) = this.take_room(data) {
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
        let Some(Blocked { data, room }) = &mut this.blocked else { return Poll::Pending };
        match room.as_mut().poll(cx) {
            Poll::Ready(Ok(share)) => {
                let data = std::mem::take(data);
                (this.share, this.blocked) = (Some(share), None);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Err(why)) => Poll::Ready(Some(Err(why.refused()))),
            Poll::Pending => this.poll_late(cx).map(|status| Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.blocked.is_none() && self.body.is_end_stream()
    }
}

fn violated(violation: Violation) -> Status {
    let why = format!("the request has {violation}");
    match violation {
        Violation::TooLarge { .. } => Status::resource_exhausted(why),
        Violation::Compressed | Violation::Flag(_) | Violation::Second => Status::internal(why),
    }
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocked").field("bytes", &self.data.len()).finish_non_exhaustive()
    }
}
