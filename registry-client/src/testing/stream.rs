//! The response to one request, frame by frame.

use std::{future::poll_fn, task::Poll};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response};
use tonic::{Code, Status};

use super::Reply;

/// The side that ended a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    Ours,
    Reset,
}

/// Responds with `reply`.
pub(super) async fn respond_to(
    reply: Reply,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> StreamEnd {
    match reply {
        Reply::Fail(status) => return only_head(respond, only(&status)),
        Reply::Head(head) => return only_head(respond, head),
        Reply::Refuse => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return StreamEnd::Ours;
        }
        Reply::Reset(error, after) => {
            tokio::select! {
                biased;
                reset = poll_fn(|cx| respond.poll_reset(cx)) => return abandoned(reset),
                () = tokio::time::sleep(after) => respond.send_reset(error.into()),
            }
            return StreamEnd::Ours;
        }
        Reply::Raw { head, data, trailers } => return raw(head, data, trailers, body, respond).await,
        // The connection closes itself before this.
        Reply::Hang | Reply::Close => return abandoned(poll_fn(|cx| respond.poll_reset(cx)).await),
        Reply::Slow(latency) => {
            tokio::select! {
                biased;
                reset = poll_fn(|cx| respond.poll_reset(cx)) => return abandoned(reset),
                () = tokio::time::sleep(latency) => {}
            }
        }
        Reply::Echo | Reply::Message(_) | Reply::HangAfterHead | Reply::ResetAfterHead(_) | Reply::GoAway => {
        }
    }
    let Ok(mut out) = respond.send_response(head(), false) else { return StreamEnd::Reset };
    let sent = match reply {
        Reply::ResetAfterHead(error) => {
            out.send_reset(error.into());
            return StreamEnd::Ours;
        }
        Reply::HangAfterHead => return abandoned(poll_fn(|cx| out.poll_reset(cx)).await),
        Reply::Message(size) => send(&mut out, message(size)).await,
        _ => echo(&mut body, &mut out).await,
    };
    match sent {
        Ok(()) => {
            // Fails when the client has reset the stream by now.
            let ended = out.send_trailers(trailers(&Status::new(Code::Ok, "")));
            if ended.is_ok() { StreamEnd::Ours } else { StreamEnd::Reset }
        }
        Err(StreamClosed) => match poll_fn(|cx| Poll::Ready(out.poll_reset(cx))).await {
            Poll::Ready(reset) => abandoned(reset),
            Poll::Pending => StreamEnd::Ours,
        },
    }
}

/// Sends exactly this response.
async fn raw(
    head: Response<()>,
    data: Bytes,
    trailers: Option<HeaderMap>,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> StreamEnd {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let Ok(mut out) = respond.send_response(head, data.is_empty() && trailers.is_none()) else {
        return StreamEnd::Reset;
    };
    let sent = match trailers {
        Some(trailers) => match send(&mut out, data).await {
            Ok(()) => out.send_trailers(trailers).is_ok(),
            Err(StreamClosed) => false,
        },
        None if data.is_empty() => true,
        None => out.send_data(data, true).is_ok(),
    };
    if sent { StreamEnd::Ours } else { StreamEnd::Reset }
}

/// The stream is closed.
struct StreamClosed;

async fn echo(body: &mut RecvStream, out: &mut SendStream<Bytes>) -> Result<(), StreamClosed> {
    while let Some(data) = body.data().await {
        let data = data.map_err(|_| StreamClosed)?;
        // Fails only when the stream is closed, which sending detects too.
        let _ = body.flow_control().release_capacity(data.len());
        send(out, data).await?;
    }
    Ok(())
}

/// Sends as fast as the client's window allows.
async fn send(out: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), StreamClosed> {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        let Some(Ok(room)) = poll_fn(|cx| out.poll_capacity(cx)).await else { return Err(StreamClosed) };
        out.send_data(data.split_to(room.min(data.len())), false).map_err(|_| StreamClosed)?;
    }
    Ok(())
}

/// The side that ended a stream before its response: an error means that the
/// whole connection ended.
fn abandoned(reset: Result<Reason, h2::Error>) -> StreamEnd {
    if reset.is_ok() { StreamEnd::Reset } else { StreamEnd::Ours }
}

fn only_head(mut respond: SendResponse<Bytes>, head: Response<()>) -> StreamEnd {
    if respond.send_response(head, true).is_ok() { StreamEnd::Ours } else { StreamEnd::Reset }
}

/// The head of a response that has messages.
pub(super) fn head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head
}

/// The head of a response that is only a status.
pub(super) fn only(status: &Status) -> Response<()> {
    let mut head = head();
    head.headers_mut().extend(trailers(status));
    head
}

/// A status as the end of a response.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Its text cannot stand in a header; the code can.
        trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    trailers
}

/// A framed `StringValue` of `size` characters.
fn message(size: usize) -> Bytes {
    let message = prost::Message::encode_to_vec(&"x".repeat(size));
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(&*message);
    framed.freeze()
}
