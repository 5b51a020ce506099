//! One send of a call to one instance.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Sleep;

use super::super::{
    answer::Deadline,
    failure::Failure,
    in_flight::InFlight,
    interim::FinalResponse,
    upload::{RequestBody, Upload, UploadError},
};

/// An attempt that is under way.
pub(super) struct Attempt {
    pub(super) answer: FinalResponse,
    /// `None` once the whole request was written.
    pub(super) upload: Option<Upload>,
    pub(super) in_flight: InFlight,
    /// Its index among the attempts that the caller has explained.
    pub(super) attempt_index: Option<usize>,
    /// When another attempt may take its place, and how long that is; `None`
    /// where only the call's deadline bounds it.
    pub(super) timeout: Option<Box<(Pin<Box<Sleep>>, Duration)>>,
}

impl Attempt {
    /// Writes the request and waits for the head of the answer.
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
                // the answer says more than the broken upload does.
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

    /// Ready, once, when it has taken as long as one attempt may; gives how
    /// long that is.
    pub(super) fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(timeout) = &mut self.timeout else { return Poll::Pending };
        ready!(timeout.0.as_mut().poll(cx));
        let limit = timeout.1;
        self.timeout = None;
        Poll::Ready(limit)
    }
}
