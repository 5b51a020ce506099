//! The body of an incoming request.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};

use super::unread::TrackedWindow;

/// The frames of a request. Reading releases window capacity. A stream that the
/// peer resets, with any code, ends with an error: a handler must not take a
/// partial request for the whole.
#[derive(Debug)]
pub(super) struct IncomingBody {
    stream: RecvStream,
    /// The frame that `is_complete` has read ahead.
    first: Option<Bytes>,
    data_ended: bool,
    /// Tracks the unread bytes until this is dropped.
    _tracked: Option<TrackedWindow>,
}

impl IncomingBody {
    pub(super) fn new(tracked: Option<TrackedWindow>, stream: RecvStream) -> Self {
        Self { stream, first: None, data_ended: false, _tracked: tracked }
    }

    /// Returns whether the whole body has arrived, in at most one frame.
    pub(super) fn is_complete(&mut self) -> bool {
        if self.first.is_none()
            && let Poll::Ready(Some(Ok(data))) =
                self.stream.poll_data(&mut Context::from_waker(Waker::noop()))
        {
            self.first = Some(data);
        }
        self.stream.is_end_stream()
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        match self.first.take() {
            Some(data) => Poll::Ready(Some(Ok(data))),
            None => self.stream.poll_data(cx),
        }
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only if more is released than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        ready!(self.stream.poll_trailers(cx)).map_or_else(
            |error| Poll::Ready(Some(Err(error))),
            |trailers| Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.stream.is_end_stream()
    }
}
