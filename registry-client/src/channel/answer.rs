//! The body of an answer, as a generated client reads it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    admission::Admitted,
    failure::{Failure, Fault},
    in_flight::InFlight,
    response::{screen_status, status_of},
};
use crate::{
    code::Code,
    framing::{Framing, Rules},
    outcome::{Cause, Outcome},
};

/// A small part of what a stream may send ahead, in bytes.
const RELEASE_AT: usize = 64 << 10;

/// The body of an answer. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct Answer {
    stream: Option<Stream>,
    /// Made when the first frame is late; most answers never need it.
    timer: Option<Pin<Box<Sleep>>>,
    /// The call's place under its service's limit.
    admitted: Admitted,
    /// The rest of the request, in a call that streams both ways.
    _upload: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Stream {
    frames: RecvStream,
    data_ended: bool,
    /// Bytes handed to the reader and not yet given back to the peer's window.
    read: usize,
    framing: Framing,
    bounds: Bounds,
    in_flight: InFlight,
    /// Whether the reader has had the last message and has not come back yet.
    is_decoding: bool,
    /// How the call ended, once it has.
    ended: Option<Code>,
}

/// When a call ends, and how long it was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

/// What an answer's body must obey.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) deadline: Option<Deadline>,
    /// Whether the method is known to answer with a stream, which may go on
    /// until the deadline and is not late then.
    pub(super) streams: bool,
    /// Whether the head had the status already.
    pub(super) has_status: bool,
}

impl Answer {
    pub(super) fn new(
        frames: RecvStream,
        in_flight: InFlight,
        (bounds, rules): (Bounds, Rules),
        admitted: Admitted,
        upload: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let stream = Stream {
            frames,
            data_ended: false,
            read: 0,
            framing: Framing::new(rules),
            bounds,
            in_flight,
            is_decoding: false,
            ended: None,
        };
        Self { stream: Some(stream), timer: None, admitted, _upload: upload }
    }

    /// Ends the stream with this code: cancels it if it has not ended, and
    /// stops counting it.
    fn end(&mut self, code: Code) {
        self.stream = None;
        self.admitted.ended(code);
        self.admitted = Admitted::default();
        self._upload = None;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let Some(Deadline { at, limit }) = stream.bounds.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        ready!(timer.as_mut().poll(cx));
        let while_ = format!("while {} was answering", stream.in_flight.peer());
        Poll::Ready(stream.fail(Failure::Expired { limit, while_ }))
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_decoding = false;
        if !self.data_ended {
            match ready!(self.frames.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Err(violation) = self.framing.pass(&data) {
                        return Poll::Ready(Some(Err(self.fault(Fault::Message(violation)))));
                    }
                    self.release(data.len());
                    self.is_decoding = true;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.frames.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => Some(match self.read_status(&trailers) {
                Ok(code) => {
                    self.in_flight.end(Outcome::status(code));
                    self.ended = Some(code);
                    screen_status(&mut trailers);
                    Ok(Frame::trailers(trailers))
                }
                Err(fault) => Err(self.fault(fault)),
            }),
            Ok(None) if self.bounds.has_status => {
                self.ended = Some(Code::OK);
                None
            }
            Ok(None) => Some(Err(self.fault(Fault::NoTrailers))),
            Err(error) => Some(Err(self.broken(error))),
        })
    }

    /// The code in the trailers. An answer that ends with OK is whole.
    fn read_status(&self, trailers: &HeaderMap) -> Result<Code, Fault> {
        let code = status_of(trailers).ok_or(Fault::NoStatus)?;
        if code == Code::OK && !self.framing.is_between_messages() {
            return Err(Fault::Truncated);
        }
        if code == Code::OK && self.framing.lacks_its_message() {
            return Err(Fault::NoMessage);
        }
        Ok(code)
    }

    /// The frame leaves for its reader: the peer may send as much again. Told
    /// in large steps; the end of the stream gives back what is left.
    fn release(&mut self, bytes: usize) {
        self.read += bytes;
        if self.read >= RELEASE_AT {
            // Fails only for more than was received.
            let _ = self.frames.flow_control().release_capacity(self.read);
            self.read = 0;
        }
    }

    #[cold]
    fn fault(&mut self, fault: Fault) -> Status {
        self.fail(Failure::Malformed { to: self.in_flight.peer().clone(), fault })
    }

    #[cold]
    fn broken(&mut self, error: h2::Error) -> Status {
        self.fail(Failure::broken(self.in_flight.peer(), error, self.bounds.deadline))
    }

    /// Records how the attempt failed; what its caller is told.
    fn fail(&mut self, failure: Failure) -> Status {
        let mut outcome = failure.outcome();
        if self.bounds.streams && outcome.cause == Cause::DeadlineExceeded {
            outcome.cause = Cause::StreamExpired;
        }
        self.in_flight.end(outcome);
        self.ended = Some(outcome.code);
        failure.into()
    }
}

impl Drop for Stream {
    /// The reader of a unary answer comes back for its status, unless it could
    /// not decode the message.
    fn drop(&mut self) {
        if self.is_decoding && self.framing.is_single() && self.framing.is_between_messages() {
            self.fault(Fault::Undecodable);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let frame = match stream.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => Some(Err(ready!(self.poll_expired(cx)))),
        };
        if let Some(code) = self.stream.as_ref().and_then(|stream| stream.ended) {
            self.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream.bounds.has_status && stream.frames.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
