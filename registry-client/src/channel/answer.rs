//! The body of an answer, as a generated client reads it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};
use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{admission::Admitted, failure::Failure, framing::MessageSizes, head::find, in_flight::InFlight};
use crate::{code::Code, health::Ended};

/// A small part of what a stream may send ahead, in bytes.
const RELEASE_AT: usize = 64 << 10;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The body of an answer. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct Answer {
    stream: Option<Stream>,
    deadline: Option<Deadline>,
    blames: bool,
    /// Made when the first frame is late; most answers never need it.
    timer: Option<Pin<Box<Sleep>>>,
    /// The call's place under its service's limit.
    _admitted: Admitted,
    /// The rest of the request, in a call that streams both ways.
    _upload: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Stream {
    frames: RecvStream,
    data_ended: bool,
    /// Bytes handed to the reader and not yet given back to the peer's window.
    read: usize,
    /// Bounds each message, where the method's policy does.
    sizes: Option<MessageSizes>,
    in_flight: InFlight,
}

/// When a call ends, and how long it was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

/// What an answer's body may not exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) deadline: Option<Deadline>,
    /// The most bytes of one message.
    pub(super) message: Option<usize>,
    /// Whether the instance is to blame when the deadline passes: not where a
    /// stream simply goes on until then.
    pub(super) blames: bool,
}

impl Answer {
    pub(super) fn new(
        frames: RecvStream,
        in_flight: InFlight,
        bounds: Bounds,
        admitted: Admitted,
        upload: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let sizes = bounds.message.map(MessageSizes::up_to);
        Self {
            stream: Some(Stream { frames, data_ended: false, read: 0, sizes, in_flight }),
            deadline: bounds.deadline,
            blames: bounds.blames,
            timer: None,
            _admitted: admitted,
            _upload: upload,
        }
    }

    /// Ends the stream: cancels it if it has not ended, and stops counting it.
    fn end(&mut self) {
        self.stream = None;
        self._admitted = Admitted::default();
        self._upload = None;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let (Some(deadline), Some(stream)) = (self.deadline, &mut self.stream) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.at)));
        ready!(timer.as_mut().poll(cx));
        if self.blames {
            stream.in_flight.observe(Ended::Expired);
        }
        let while_ = format!("while {} was answering", stream.in_flight.peer());
        Poll::Ready(Failure::Expired { limit: deadline.limit, while_ }.into())
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.data_ended {
            match ready!(self.frames.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Some(Err(why)) = self.sizes.as_mut().map(|sizes| sizes.pass(&data)) {
                        let why = format!("the answer of {} has {why}", self.in_flight.peer());
                        return Poll::Ready(Some(Err(Status::resource_exhausted(why))));
                    }
                    self.release(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.frames.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                let code = find(&trailers, &GRPC_STATUS).map(|code| Code::from_header(code.as_bytes()));
                self.in_flight.observe(Ended::Answered(code.unwrap_or(Code::UNKNOWN)));
                drop_malformed_details(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(self.broken(error)))),
        }
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

    fn broken(&mut self, error: h2::Error) -> Status {
        self.in_flight.observe(Ended::Broken);
        Failure::Broken { to: self.in_flight.peer().clone(), cause: Arc::new(error) }.into()
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
        let polled = match stream.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => Some(Err(ready!(self.poll_expired(cx)))),
        };
        let more = matches!(&polled, Some(Ok(frame)) if frame.is_data());
        if !more {
            self.end();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream.frames.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Removes error details that are not base64: tonic panics on them.
pub(super) fn drop_malformed_details(headers: &mut HeaderMap) {
    const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
    // A successful answer has its status and no more: nothing to look for.
    if headers.len() > 1
        && let Some(value) = headers.get(DETAILS)
        && AS_TONIC_READS.decode(value.as_bytes()).is_err()
    {
        headers.remove(DETAILS);
    }
}

/// Base64 with or without padding.
const AS_TONIC_READS: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_details_that_tonic_would_panic_on_are_removed() {
        for (details, kept) in
            [("aGVsbG8=", true), ("aGVsbG8", true), ("a", false), ("!!!!", false), ("aGVsbG8=a", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", "3".parse().unwrap());
            headers.insert("grpc-status-details-bin", details.parse().unwrap());
            drop_malformed_details(&mut headers);
            assert_eq!(headers.contains_key("grpc-status-details-bin"), kept, "{details}");
            // Panics if it reads what was kept as malformed.
            assert!(Status::from_header_map(&headers).is_some());
        }
    }
}
