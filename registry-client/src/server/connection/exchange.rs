//! One request and its response.

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

/// Why a response was not sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsent {
    /// The peer has taken its request back, or the connection is gone.
    Cancelled,
    /// The body failed.
    Failed,
    /// The peer takes nothing, and its share of the server's bytes is used up.
    NoRoom,
    /// The peer has taken nothing for too long.
    Slow,
}

impl Unsent {
    /// What the stream is reset with. gRPC's "HTTP2 Transport Mapping" reads
    /// them as `INTERNAL`, `RESOURCE_EXHAUSTED` and `CANCELLED`.
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Cancelled => None,
            Self::Failed => Some(Reason::INTERNAL_ERROR),
            Self::NoRoom => Some(Reason::ENHANCE_YOUR_CALM),
            Self::Slow => Some(Reason::CANCEL),
        }
    }
}

/// Sends what `call` answers, no faster than the peer takes it. Both are dropped
/// once the peer has taken its request back, or the connection is gone.
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
    let is_whole = body.is_end_stream();
    if is_whole && let Err(unsent) = writable_for(&mut respond, writable, send_timeout).await {
        if let Some(reason) = unsent.reason() {
            respond.send_reset(reason);
        }
        return;
    }
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), is_whole) else { return };
    if is_whole {
        return;
    }
    let mut out = Out { stream, connection, writable, send_timeout };
    if let Err(unsent) = out.send(body).await
        && let Some(reason) = unsent.reason()
    {
        debug!(?unsent, "a response was cut off");
        out.stream.send_reset(reason);
    }
}

async fn response<F, R>(call: F, respond: &mut SendResponse<Bytes>) -> Result<Response<R>, Unsent>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    let mut call = pin!(call);
    poll_fn(|cx| {
        if let Poll::Ready(Ok(response)) = call.as_mut().poll(cx) {
            return Poll::Ready(Ok(response));
        }
        respond.poll_reset(cx).map(|_| Err(Unsent::Cancelled))
    })
    .await
}

/// Waits until the socket takes something: a response without a body, a refusal for
/// instance, counts as under way until then, and does not once `h2` holds it.
#[inline]
async fn writable_for(
    respond: &mut SendResponse<Bytes>,
    writable: &Writable,
    send_timeout: Duration,
) -> Result<(), Unsent> {
    if writable.now() {
        return Ok(());
    }
    let taken = async {
        tokio::select! {
            () = writable.ready() => Ok(()),
            _ = poll_fn(|cx| respond.poll_reset(cx)) => Err(Unsent::Cancelled),
        }
    };
    timeout(send_timeout, taken).await.map_err(|_| Unsent::Slow)?
}

/// Where the frames of a response go.
struct Out<'a> {
    stream: SendStream<Bytes>,
    /// Whose room is taken by what waits.
    connection: &'a Arc<PeerConnection>,
    writable: &'a Writable,
    /// How long the peer may take nothing of what is there for it.
    send_timeout: Duration,
}

impl Out<'_> {
    async fn send<R: Body<Data = Bytes>>(&mut self, body: R) -> Result<(), Unsent> {
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
                    return self.stream.send_trailers(trailers).map_err(|_| Unsent::Cancelled);
                }
            }
        }
        self.stream.send_data(Bytes::new(), true).map_err(|_| Unsent::Cancelled)
    }

    /// The next frame of `body`; `None` at its end.
    async fn next<R: Body<Data = Bytes>>(
        &mut self,
        mut body: Pin<&mut R>,
    ) -> Result<Option<Frame<Bytes>>, Unsent> {
        poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(frame)) => Poll::Ready(frame.map(Some).map_err(|_| Unsent::Failed)),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => self.stream.poll_reset(cx).map(|_| Err(Unsent::Cancelled)),
        })
        .await
    }

    /// Writes `data`, in pieces as large as the peer makes room for. What waits
    /// counts as the peer's. Nothing is handed over while the socket takes
    /// nothing, for what `h2` holds does not count.
    async fn write(&mut self, mut data: Bytes, is_last: bool) -> Result<(), Unsent> {
        let mut share = None;
        loop {
            self.stream.reserve_capacity(data.len());
            let room = if self.writable.now() { self.stream.capacity().min(data.len()) } else { 0 };
            if room == data.len() {
                return self.stream.send_data(data, is_last).map_err(|_| Unsent::Cancelled);
            }
            if room > 0 {
                self.stream.send_data(data.split_to(room), false).map_err(|_| Unsent::Cancelled)?;
                continue;
            }
            if share.is_none() {
                share = Some(self.connection.claim_bytes(data.len()).ok_or(Unsent::NoRoom)?);
            }
            timeout(self.send_timeout, self.room()).await.map_err(|_| Unsent::Slow)??;
        }
    }

    /// Waits until the peer has made room and the socket takes something.
    async fn room(&mut self) -> Result<(), Unsent> {
        if !self.writable.now() {
            return tokio::select! {
                () = self.writable.ready() => Ok(()),
                _ = poll_fn(|cx| self.stream.poll_reset(cx)) => Err(Unsent::Cancelled),
            };
        }
        match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(Unsent::Cancelled),
        }
    }
}
