//! The writability of a connection's socket.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::Notify;

/// A flag for a writable socket, which the peer keeps writable by reading.
/// Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Writable(Arc<WritableState>);

#[derive(Debug, Default)]
struct WritableState {
    is_full: AtomicBool,
    is_paused: AtomicBool,
    writable: Notify,
}

impl Writable {
    /// Records whether the socket accepted a write.
    pub(in crate::server) fn set(&self, writable: bool) {
        // A load does not take the cache line from other cores, a store does.
        if self.now() != writable {
            self.0.is_full.store(!writable, SeqCst);
            if writable {
                self.0.is_paused.store(false, SeqCst);
                self.0.writable.notify_waiters();
            }
        }
    }

    /// Pauses reading until the next successful write, if the socket is full:
    /// further requests would only add responses to buffer.
    pub(super) fn pause_if_full(&self) {
        if !self.now() {
            self.0.is_paused.store(true, SeqCst);
        }
    }

    /// Returns whether reading is paused.
    pub(in crate::server) fn is_paused(&self) -> bool {
        self.0.is_paused.load(SeqCst)
    }

    pub(super) fn now(&self) -> bool {
        !self.0.is_full.load(SeqCst)
    }

    /// Completes when the socket is writable.
    pub(super) async fn ready(&self) {
        let writable = self.0.writable.notified();
        tokio::pin!(writable);
        // Before the check, so that no notification is missed.
        writable.as_mut().enable();
        if !self.now() {
            writable.await;
        }
    }
}
