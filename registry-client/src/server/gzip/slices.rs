//! Long work on messages, in time slices.

use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::PollSemaphore;

use super::super::peers::PeerConnection;

/// The bytes of a slice, after which other tasks run.
pub(super) const SLICE_BYTES: usize = 32 << 10;

/// The time slices of the work on one message. Work of one slice is done at
/// once. Longer work yields to other tasks after each slice, and is done for
/// few messages of a peer at a time, so that a peer with much of it does not
/// get more of the processor than others.
#[derive(Debug)]
pub(super) struct TimeSlices {
    /// The peer's permits; `None` once one was acquired, or without a peer.
    permits: Option<PollSemaphore>,
    permit: Option<OwnedSemaphorePermit>,
    has_started: bool,
    yields: bool,
}

impl TimeSlices {
    pub(super) fn new(connection: Option<&PeerConnection>) -> Self {
        let permits = connection.map(|connection| PollSemaphore::new(connection.long_work()));
        Self { permits, permit: None, has_started: false, yields: false }
    }

    /// Completes when the next slice may be done.
    pub(super) fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_started {
            self.has_started = true;
            self.yields = true;
            return Poll::Ready(());
        }
        if self.yields {
            self.yields = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(permits) = &mut self.permits {
            self.permit = ready!(permits.poll_acquire(cx));
            self.permits = None;
        }
        self.yields = true;
        Poll::Ready(())
    }
}
