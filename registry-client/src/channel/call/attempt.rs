//! One attempt of a call on one instance.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Sleep;

use super::super::{
    deadline::Deadline,
    failure::Failure,
    in_flight::InFlight,
    interim::FinalResponse,
    upload::{RequestBody, Upload, UploadError},
};

/// An attempt in flight.
pub(super) struct Attempt {
    pub(super) answer: FinalResponse,
    /// The upload of the request; `None` once all of it was written.
    pub(super) upload: Option<Upload>,
    pub(super) in_flight: InFlight,
    /// The index of this attempt in the caller's
    /// [`Explain`](crate::telemetry::Explain).
    pub(super) attempt_index: Option<usize>,
    /// The timer of this attempt and its length; `None` where only the deadline
    /// of the call bounds it.
    pub(super) timeout: Option<Box<(Pin<Box<Sleep>>, Duration)>>,
}

impl Attempt {
    /// Writes the request and waits for the head of the response.
    #[inline]
    pub(super) fn poll(
        &mut self,
        body: &mut RequestBody,
        deadline: &Deadline,
        cx: &mut Context<'_>,
    ) -> Poll<Result<http::Response<h2::RecvStream>, Failure>> {
        if let Some(upload) = &mut self.upload {
            match upload.poll(body, cx) {
                // The server may have answered before it took everything, and
                // the response says more than the broken upload does.
                Poll::Ready(Ok(()) | Err(UploadError::Stream)) => {
                    self.upload = None;
                    self.in_flight.request_sent();
                }
                Poll::Ready(Err(UploadError::Body(cause))) => {
                    return Poll::Ready(Err(Failure::RequestBody { cause }));
                }
                Poll::Pending => {}
            }
        }
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answer.map_err(|error| Failure::broken(self.in_flight.peer(), error, Some(*deadline))))
    }

    /// Ready, once, with the length of the attempt timeout when it has passed.
    pub(super) fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(timeout) = &mut self.timeout else { return Poll::Pending };
        ready!(timeout.0.as_mut().poll(cx));
        let limit = timeout.1;
        self.timeout = None;
        Poll::Ready(limit)
    }
}
