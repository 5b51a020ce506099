//! Whether the socket of a connection takes what is written to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::Notify;

/// True if the peer reads what is sent; it does until the socket is full. Cheap
/// to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Writable(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_full: AtomicBool,
    writable: Notify,
}

impl Writable {
    /// The socket has taken something, or nothing.
    pub(in crate::server) fn set(&self, writable: bool) {
        // A look costs other cores nothing, a store does.
        if self.now() != writable {
            self.0.is_full.store(!writable, SeqCst);
            if writable {
                self.0.writable.notify_waiters();
            }
        }
    }

    pub(super) fn now(&self) -> bool {
        !self.0.is_full.load(SeqCst)
    }

    /// Completes when the socket takes something.
    pub(super) async fn ready(&self) {
        let writable = self.0.writable.notified();
        tokio::pin!(writable);
        // Before looking, so that nothing is missed in between.
        writable.as_mut().enable();
        if !self.now() {
            writable.await;
        }
    }
}
