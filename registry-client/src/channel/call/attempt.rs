//! One send of a call to one instance.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::super::{
    failure::Failure,
    in_flight::InFlight,
    upload::{RequestBody, Upload, UploadError},
};

/// An attempt that is under way.
pub(super) struct Attempt {
    pub(super) answer: h2::client::ResponseFuture,
    /// `None` once the whole request was written.
    pub(super) upload: Option<Upload>,
    pub(super) in_flight: InFlight,
    /// Its place in what the caller is told.
    pub(super) slip: Option<usize>,
}

impl Attempt {
    /// Writes the request and waits for the head of the answer.
    pub(super) fn poll(
        &mut self,
        body: &mut RequestBody,
        cx: &mut Context<'_>,
    ) -> Poll<Result<http::Response<h2::RecvStream>, Failure>> {
        if let Some(upload) = &mut self.upload {
            match upload.poll(body, cx) {
                // The server may have answered before it took everything, and
                // the answer says more than the broken upload does.
                Poll::Ready(Ok(()) | Err(UploadError::Stream)) => self.upload = None,
                Poll::Ready(Err(UploadError::Body(cause))) => {
                    return Poll::Ready(Err(Failure::RequestBody { cause }));
                }
                Poll::Pending => {}
            }
        }
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(
            answer.map_err(|error| Failure::Broken {
                to: self.in_flight.peer().clone(),
                cause: Arc::new(error),
            }),
        )
    }
}
