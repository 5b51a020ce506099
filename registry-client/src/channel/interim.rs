//! Informational responses (RFC 9110, section 15.2), which precede the final
//! one.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Reason, RecvStream};

/// The most informational responses (1xx) after which a stream is abandoned. No
/// gRPC server sends one; a proxy sends one or two.
const MAX_INFORMATIONAL: u32 = 16;
/// The polls without a response after which informational responses are
/// counted. Before that `h2` drops them, which costs a call nothing.
const COUNTED_AFTER: u32 = 16;

/// The future of the final response. Ends with an error when the peer sends
/// only informational responses; dropping it with the request then resets the
/// stream.
#[derive(Debug)]
pub(super) struct FinalResponse {
    inner: h2::client::ResponseFuture,
    /// Polls that are left before informational responses are counted.
    uncounted: u32,
    /// Informational responses that are left after that.
    left: u32,
}

impl FinalResponse {
    pub(super) fn new(inner: h2::client::ResponseFuture) -> Self {
        Self { inner, uncounted: COUNTED_AFTER, left: MAX_INFORMATIONAL }
    }

    /// Takes the informational responses that have arrived; returns whether
    /// there were too many.
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
