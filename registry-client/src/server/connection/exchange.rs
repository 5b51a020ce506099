//! The exchange of one request and its response.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::Response;
use http_body::{Body, Frame};
use tokio::time::timeout;
use tracing::debug;

use super::{super::peers::PeerConnection, Writable};

/// The reason for which a response was not sent completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendError {
    /// The peer has reset the stream, or the connection is closed.
    Cancelled,
    /// The body failed.
    Failed,
    /// The peer reads nothing, and its share of buffered bytes is used up.
    ShareExceeded,
    /// The peer has read nothing for too long.
    Slow,
}

impl SendError {
    /// The error code of the reset. gRPC's "HTTP2 Transport Mapping" maps them
    /// to `INTERNAL`, `RESOURCE_EXHAUSTED` and `CANCELLED`.
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Cancelled => None,
            Self::Failed => Some(Reason::INTERNAL_ERROR),
            Self::ShareExceeded => Some(Reason::ENHANCE_YOUR_CALM),
            Self::Slow => Some(Reason::CANCEL),
        }
    }
}

/// Sends the response of `call`, no faster than the peer reads it. Both are
/// dropped once the peer has reset the stream, or the connection is closed.
pub(super) async fn run<F, R>(
    call: F,
    mut respond: SendResponse<Bytes>,
    (connection, writable): (&Arc<PeerConnection>, &Writable),
    send_timeout: Duration,
) where
    F: Future<Output = Result<Response<R>, Infallible>>,
    R: Body<Data = Bytes>,
{
    let Ok(response) = response(call, &mut respond).await else { return };
    let (head, body) = response.into_parts();
    let is_complete = body.is_end_stream();
    if is_complete && let Err(error) = writable_for(&mut respond, writable, send_timeout).await {
        if let Some(reason) = error.reason() {
            respond.send_reset(reason);
        }
        return;
    }
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), is_complete) else { return };
    if is_complete {
        return;
    }
    let mut sender = ResponseSender { stream, connection, writable, send_timeout };
    if let Err(error) = sender.send(body).await
        && let Some(reason) = error.reason()
    {
        debug!(?error, "a response was cut off: {error:?}");
        sender.stream.send_reset(reason);
    }
}

async fn response<F, R>(call: F, respond: &mut SendResponse<Bytes>) -> Result<Response<R>, SendError>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    let mut call = pin!(call);
    poll_fn(|cx| {
        if let Poll::Ready(Ok(response)) = call.as_mut().poll(cx) {
            return Poll::Ready(Ok(response));
        }
        respond.poll_reset(cx).map(|_| Err(SendError::Cancelled))
    })
    .await
}

/// Waits until the socket is writable: a response without a body, such as a
/// rejection, counts as in flight until then, and no longer once `h2` buffers
/// it.
#[inline]
async fn writable_for(
    respond: &mut SendResponse<Bytes>,
    writable: &Writable,
    send_timeout: Duration,
) -> Result<(), SendError> {
    if writable.now() {
        return Ok(());
    }
    let taken = async {
        tokio::select! {
            () = writable.ready() => Ok(()),
            _ = poll_fn(|cx| respond.poll_reset(cx)) => Err(SendError::Cancelled),
        }
    };
    timeout(send_timeout, taken).await.map_err(|_| SendError::Slow)?
}

/// The sender of a response's frames.
struct ResponseSender<'a> {
    stream: SendStream<Bytes>,
    /// The connection whose share the waiting data takes.
    connection: &'a Arc<PeerConnection>,
    writable: &'a Writable,
    /// The longest time for which the peer may read nothing of pending data.
    send_timeout: Duration,
}

impl ResponseSender<'_> {
    async fn send<R: Body<Data = Bytes>>(&mut self, body: R) -> Result<(), SendError> {
        let mut body = pin!(body);
        while let Some(frame) = self.next(body.as_mut()).await? {
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    self.write(data, is_last).await?;
                    if is_last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return self.stream.send_trailers(trailers).map_err(|_| SendError::Cancelled);
                }
            }
        }
        self.stream.send_data(Bytes::new(), true).map_err(|_| SendError::Cancelled)
    }

    /// The next frame of `body`; `None` at its end.
    async fn next<R: Body<Data = Bytes>>(
        &mut self,
        mut body: Pin<&mut R>,
    ) -> Result<Option<Frame<Bytes>>, SendError> {
        poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(frame)) => Poll::Ready(frame.map(Some).map_err(|_| SendError::Failed)),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => self.stream.poll_reset(cx).map(|_| Err(SendError::Cancelled)),
        })
        .await
    }

    /// Writes `data`, in parts as large as the peer's window. Waiting data
    /// counts towards the peer's share. Nothing is passed to `h2` while the
    /// socket is not writable, because its buffer does not count.
    async fn write(&mut self, mut data: Bytes, is_last: bool) -> Result<(), SendError> {
        let mut share = None;
        loop {
            self.stream.reserve_capacity(data.len());
            let room = if self.writable.now() { self.stream.capacity().min(data.len()) } else { 0 };
            if room == data.len() {
                return self.stream.send_data(data, is_last).map_err(|_| SendError::Cancelled);
            }
            if room > 0 {
                self.stream.send_data(data.split_to(room), false).map_err(|_| SendError::Cancelled)?;
                continue;
            }
            if share.is_none() {
                share = Some(self.connection.claim_bytes(data.len()).ok_or(SendError::ShareExceeded)?);
            }
            timeout(self.send_timeout, self.room()).await.map_err(|_| SendError::Slow)??;
        }
    }

    /// Waits for window capacity and a writable socket.
    async fn room(&mut self) -> Result<(), SendError> {
        if !self.writable.now() {
            return tokio::select! {
                () = self.writable.ready() => Ok(()),
                _ = poll_fn(|cx| self.stream.poll_reset(cx)) => Err(SendError::Cancelled),
            };
        }
        match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(SendError::Cancelled),
        }
    }
}
