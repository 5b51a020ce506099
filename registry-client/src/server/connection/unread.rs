//! The bytes of requests that `h2` buffers while their handlers do not read.
//!
//! A connection's window bounds them, so that they matter only where one peer
//! has many connections. There they count towards the peer's share.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use h2::{FlowControl, RecvStream};

use super::super::peers::{PeerConnection, Share};

/// The number of connections up to which a peer's requests are not tracked.
const MAX_UNTRACKED_CONNECTIONS: usize = 32;

/// The requests of a connection that are not read completely.
#[derive(Debug)]
pub(super) struct UnreadRequests<'a> {
    connection: &'a Arc<PeerConnection>,
    requests: Vec<Arc<Mutex<Option<FlowControl>>>>,
    share: Option<Share>,
}

/// A request that is tracked until this is dropped.
#[derive(Debug)]
pub(super) struct TrackedWindow(Arc<Mutex<Option<FlowControl>>>);

impl<'a> UnreadRequests<'a> {
    pub(super) fn new(connection: &'a Arc<PeerConnection>) -> Self {
        Self { connection, requests: Vec::new(), share: None }
    }

    /// Tracks the request with this `body`, if its peer has many connections.
    pub(super) fn track(&mut self, body: &mut RecvStream) -> Option<TrackedWindow> {
        if self.connection.connections_of_peer() <= MAX_UNTRACKED_CONNECTIONS {
            return None;
        }
        let tracked = Arc::new(Mutex::new(Some(body.flow_control().clone())));
        self.requests.push(tracked.clone());
        Some(TrackedWindow(tracked))
    }

    /// Completes when more bytes are unread than the peer's share allows.
    /// Checked at each poll.
    pub(super) async fn above_share(&mut self) {
        poll_fn(|_| if self.has_capacity() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    fn has_capacity(&mut self) -> bool {
        if self.requests.is_empty() && self.share.is_none() {
            return true;
        }
        let mut unread = 0;
        self.requests.retain(|request| match &*lock(request) {
            Some(request) => {
                unread += request.used_capacity();
                true
            }
            None => false,
        });
        self.share = None;
        if unread > 0 {
            self.share = self.connection.claim_bytes(unread);
        }
        unread == 0 || self.share.is_some()
    }
}

impl Drop for TrackedWindow {
    fn drop(&mut self) {
        // Drops the last reference to the stream.
        *lock(&self.0) = None;
    }
}

fn lock(request: &Mutex<Option<FlowControl>>) -> MutexGuard<'_, Option<FlowControl>> {
    request.lock().unwrap_or_else(PoisonError::into_inner)
}
