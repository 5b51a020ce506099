//! The bytes that `h2` holds of requests while their handlers do not read on.
//!
//! A connection's window bounds them, so that they matter only where one peer has
//! many connections. There they count as the peer's.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use h2::{FlowControl, RecvStream};

use super::super::peers::{PeerConnection, Share};

/// The number of connections up to which a peer's requests are not looked at.
const FEW: usize = 32;

/// The requests of a connection that are not read to their ends.
#[derive(Debug)]
pub(super) struct Unread<'a> {
    connection: &'a Arc<PeerConnection>,
    requests: Vec<Arc<Mutex<Option<FlowControl>>>>,
    share: Option<Share>,
}

/// A request that is looked at until this is dropped.
#[derive(Debug)]
pub(super) struct Followed(Arc<Mutex<Option<FlowControl>>>);

impl<'a> Unread<'a> {
    pub(super) fn new(connection: &'a Arc<PeerConnection>) -> Self {
        Self { connection, requests: Vec::new(), share: None }
    }

    /// Looks at the request whose body is `body` too, where its peer has many
    /// connections.
    pub(super) fn follow(&mut self, body: &mut RecvStream) -> Option<Followed> {
        if self.connection.connections_of_peer() <= FEW {
            return None;
        }
        let followed = Arc::new(Mutex::new(Some(body.flow_control().clone())));
        self.requests.push(followed.clone());
        Some(Followed(followed))
    }

    /// Completes when more is unread than the server has room for. Looks each time
    /// it is polled.
    pub(super) async fn above_share(&mut self) {
        poll_fn(|_| if self.has_room() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    fn has_room(&mut self) -> bool {
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

impl Drop for Followed {
    fn drop(&mut self) {
        // With it goes the last reference to the stream.
        *lock(&self.0) = None;
    }
}

fn lock(request: &Mutex<Option<FlowControl>>) -> MutexGuard<'_, Option<FlowControl>> {
    request.lock().unwrap_or_else(PoisonError::into_inner)
}
