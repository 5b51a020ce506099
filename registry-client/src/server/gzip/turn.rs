//! Long work on messages is done in pieces.

use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::PollSemaphore;

use super::super::peers::PeerConnection;

/// The bytes of a piece, after which other tasks have their turn.
pub(super) const PIECE: usize = 32 << 10;

/// The turns of the work on one message. Work of one piece is done at once. Longer
/// work gives way to other tasks after each piece, and is done for few messages of
/// a peer at a time, so that a peer with much of it does not have more of the
/// processor than others.
#[derive(Debug)]
pub(super) struct Turn {
    /// The peer's permits; `None` once one was taken, or where there are none.
    permits: Option<PollSemaphore>,
    permit: Option<OwnedSemaphorePermit>,
    has_begun: bool,
    gives_way: bool,
}

impl Turn {
    pub(super) fn of(connection: Option<&PeerConnection>) -> Self {
        let permits = connection.map(|connection| PollSemaphore::new(connection.long_work()));
        Self { permits, permit: None, has_begun: false, gives_way: false }
    }

    /// Completes when a piece may be done.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun {
            self.has_begun = true;
            self.gives_way = true;
            return Poll::Ready(());
        }
        if self.gives_way {
            self.gives_way = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(permits) = &mut self.permits {
            self.permit = ready!(permits.poll_acquire(cx));
            self.permits = None;
        }
        self.gives_way = true;
        Poll::Ready(())
    }
}
