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

use super::{connection::Connection, failure::Failure};
use crate::{code::Code, health::Ended};

/// A small part of what a stream may send ahead, in bytes.
const RELEASE_AT: usize = 64 << 10;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The body of an answer. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct Answer {
    stream: Option<Stream>,
    deadline: Option<Deadline>,
    /// Made when the first frame is late; most answers never need it.
    timer: Option<Pin<Box<Sleep>>>,
    /// The rest of the request, in a call that streams both ways.
    _upload: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Stream {
    frames: RecvStream,
    data_ended: bool,
    /// Bytes handed to the reader and not yet given back to the peer's window.
    read: usize,
    in_flight: InFlight,
}

/// When a call ends, and how long it was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

/// Counts a request as under way on its instance until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(pub(super) Arc<Connection>);

impl InFlight {
    pub(super) fn on(connection: Arc<Connection>) -> Self {
        connection.begin();
        Self(connection)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Answer {
    pub(super) fn new(
        frames: RecvStream,
        in_flight: InFlight,
        deadline: Option<Deadline>,
        upload: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        Self {
            stream: Some(Stream { frames, data_ended: false, read: 0, in_flight }),
            deadline,
            timer: None,
            _upload: upload,
        }
    }

    /// Ends the stream: cancels it if it has not ended, and stops counting it.
    fn end(&mut self) {
        self.stream = None;
        self._upload = None;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let (Some(deadline), Some(stream)) = (self.deadline, &self.stream) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.at)));
        ready!(timer.as_mut().poll(cx));
        let while_ = format!("while {} was answering", stream.in_flight.0.peer);
        Poll::Ready(Failure::Expired { limit: deadline.limit, while_ }.into())
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.data_ended {
            match ready!(self.frames.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.release(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.frames.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                let code = trailers.get(GRPC_STATUS).map(|code| Code::from_header(code.as_bytes()));
                self.in_flight.0.observe(Ended::Answered(code.unwrap_or(Code::UNKNOWN)));
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

    fn broken(&self, error: h2::Error) -> Status {
        self.in_flight.0.observe(Ended::Broken);
        Failure::Broken { to: self.in_flight.0.peer.clone(), cause: Arc::new(error) }.into()
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
