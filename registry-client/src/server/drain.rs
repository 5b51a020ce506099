//! The sign that a server is going away.

use tokio_util::sync::CancellationToken;

/// Tells a service that its server has stopped taking calls and waits for
/// those under way. Cheap to clone; from
/// [`Server::drain_signal`](super::Server::drain_signal).
///
/// A stream that would go on for ever, such as one that watches an order, ends
/// itself with UNAVAILABLE when this comes, so that its caller resumes it on
/// another instance. By then callers have had time to learn that this instance
/// is leaving.
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

    /// Returns whether the server has stopped taking calls.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes once the server has stopped taking calls; at once if it has.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost by dropping it and calling it again.
    pub async fn draining(&self) {
        self.token.cancelled().await;
    }
}
