//! The body of a response, which a generated client reads.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    admission::AdmittedCall,
    deadline::Deadline,
    failure::{Failure, ResponseFault},
    in_flight::InFlight,
    response::{repair_status, status_of},
};
use crate::{
    code::Code,
    framing::{Framing, MessageRules},
    outcome::{Cause, Outcome},
};

/// The least size of a `WINDOW_UPDATE`, in bytes: a small part of the stream's
/// window.
const MIN_WINDOW_UPDATE: usize = 64 << 10;

/// The body of a response. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct ResponseBody {
    stream: Option<ResponseStream>,
    /// Created when a frame is not there at once; most responses never need it.
    timer: Option<Pin<Box<Sleep>>>,
    /// The permit of the service's concurrency limit.
    admitted: AdmittedCall,
    /// The rest of the request, in a call that streams both ways.
    _upload: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct ResponseStream {
    frames: RecvStream,
    data_ended: bool,
    /// Bytes handed to the reader and not yet released to the peer's window.
    read: usize,
    framing: Framing,
    bounds: Bounds,
    in_flight: InFlight,
    /// True if the reader got a message and has not polled again.
    is_decoding: bool,
    /// The status of the call, once it has ended.
    ended: Option<Code>,
}

/// The bounds of a response body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) deadline: Option<Deadline>,
    /// True if the method has a server stream, which may last until the
    /// deadline without being late.
    pub(super) streams: bool,
    /// True if the head had the status ("Trailers-Only").
    pub(super) has_status: bool,
}

impl ResponseBody {
    pub(super) fn new(
        frames: RecvStream,
        in_flight: InFlight,
        (bounds, rules): (Bounds, MessageRules),
        admitted: AdmittedCall,
        upload: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let stream = ResponseStream {
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

    /// Ends the stream with this code: cancels it if need be, and stops
    /// counting it.
    fn end(&mut self, code: Code) {
        self.stream = None;
        self.admitted.ended(code);
        self.admitted = AdmittedCall::default();
        self._upload = None;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let Some(Deadline { at, timeout }) = stream.bounds.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        ready!(timer.as_mut().poll(cx));
        let while_ = format!("while {} was responding", stream.in_flight.peer());
        Poll::Ready(stream.fail(Failure::Expired { timeout, while_ }))
    }
}

impl ResponseStream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_decoding = false;
        if !self.data_ended {
            match ready!(self.frames.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Err(violation) = self.framing.pass(&data) {
                        return Poll::Ready(Some(
                            Err(self.fail_malformed(ResponseFault::Message(violation))),
                        ));
                    }
                    self.release(data.len());
                    self.is_decoding = true;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.fail_broken(error)))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.frames.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => Some(match self.read_status(&trailers) {
                Ok(code) => {
                    self.in_flight.end(Outcome::status(code));
                    self.ended = Some(code);
                    repair_status(&mut trailers);
                    Ok(Frame::trailers(trailers))
                }
                Err(fault) => Err(self.fail_malformed(fault)),
            }),
            Ok(None) if self.bounds.has_status => {
                self.ended = Some(Code::OK);
                None
            }
            Ok(None) => Some(Err(self.fail_malformed(ResponseFault::NoTrailers))),
            Err(error) => Some(Err(self.fail_broken(error))),
        })
    }

    /// The status code in the trailers. A response with OK must be complete.
    fn read_status(&self, trailers: &HeaderMap) -> Result<Code, ResponseFault> {
        let code = status_of(trailers).ok_or(ResponseFault::NoStatus)?;
        if code == Code::OK && !self.framing.is_between_messages() {
            return Err(ResponseFault::Truncated);
        }
        if code == Code::OK && self.framing.lacks_message() {
            return Err(ResponseFault::NoMessage);
        }
        Ok(code)
    }

    /// Releases the capacity of a frame that the reader gets, in large steps;
    /// the end of the stream releases the rest.
    fn release(&mut self, bytes: usize) {
        self.read += bytes;
        if self.read >= MIN_WINDOW_UPDATE {
            // Fails only for more than was received.
            let _ = self.frames.flow_control().release_capacity(self.read);
            self.read = 0;
        }
    }

    #[cold]
    fn fail_malformed(&mut self, fault: ResponseFault) -> Status {
        self.fail(Failure::Malformed { to: self.in_flight.peer().clone(), fault })
    }

    #[cold]
    fn fail_broken(&mut self, error: h2::Error) -> Status {
        self.fail(Failure::broken(self.in_flight.peer(), error, self.bounds.deadline))
    }

    /// Records the outcome of the failed attempt and returns the caller's
    /// status.
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

impl Drop for ResponseStream {
    /// The reader of a unary response polls again for its status, unless it
    /// could not decode the message.
    fn drop(&mut self) {
        if self.is_decoding && self.framing.is_single() && self.framing.is_between_messages() {
            self.fail_malformed(ResponseFault::Undecodable);
        }
    }
}

impl Body for ResponseBody {
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
