//! The drain signal of a server.

use tokio_util::sync::CancellationToken;

/// A signal to services that the server accepts no new calls and waits for
/// those in flight. Cheap to clone; from
/// [`Server::drain_signal`](super::Server::drain_signal).
///
/// A long-lived stream, such as one that watches an order, should end with
/// UNAVAILABLE on this signal, so that its caller resumes it on another
/// instance. By then callers have had time to notice that this instance is
/// shutting down.
#[derive(Clone, Debug)]
pub struct Drain {
    token: CancellationToken,
}

impl Drain {
    pub(super) fn new() -> Self {
        Self { token: CancellationToken::new() }
    }

    pub(super) fn begin(&self) {
        self.token.cancel();
    }

    /// Returns whether the server drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when the server drains; at once if it does already.
    ///
    /// # Cancel safety
    /// Cancel safe: the future can be dropped and created again.
    pub async fn draining(&self) {
        self.token.cancelled().await;
    }
}
