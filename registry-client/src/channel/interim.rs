//! The responses before the final one (RFC 9110, section 15.2).

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Reason, RecvStream};

/// The most informational responses (1xx) that are counted before a stream is
/// given up. No gRPC server sends one, and a proxy one or two.
const MAX_INFORMATIONAL: u32 = 16;
/// After how many polls without a response they are counted. `h2` drops them
/// unseen otherwise, which costs a call nothing.
const COUNTED_AFTER: u32 = 16;

/// The final response to a request. Ends with an error when the
/// peer sends informational responses instead, over and over; dropping it with
/// the request then resets the stream.
#[derive(Debug)]
pub(super) struct FinalResponse {
    inner: h2::client::ResponseFuture,
    /// Polls that are left before informational responses are counted.
    uncounted: u32,
    /// Informational responses that are left then.
    left: u32,
}

impl FinalResponse {
    pub(super) fn new(inner: h2::client::ResponseFuture) -> Self {
        Self { inner, uncounted: COUNTED_AFTER, left: MAX_INFORMATIONAL }
    }

    /// Takes the informational responses that have arrived; whether there were
    /// too many.
    #[cold]
    fn is_flooded(&mut self, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(Some(Ok(_))) = self.inner.poll_informational(cx) {
            let Some(left) = self.left.checked_sub(1) else { return true };
            self.left = left;
        }
        false
    }
}

impl Future for FinalResponse {
    type Output = Result<http::Response<RecvStream>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.uncounted.checked_sub(1) {
            Some(uncounted) => self.uncounted = uncounted,
            None if self.is_flooded(cx) => return Poll::Ready(Err(Reason::PROTOCOL_ERROR.into())),
            None => {}
        }
        Pin::new(&mut self.inner).poll(cx)
    }
}
