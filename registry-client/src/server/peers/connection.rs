//! The resources of one connection.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, metadata::MetadataValue};

use super::{PeerUsage, turns::InTurn};
use crate::policy::retry;

/// A shared resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Resource {
    Connections,
    /// Open streams, from their first frame until their response was read.
    Streams,
    /// Bytes of messages: of requests that arrive in parts, until they are
    /// answered; of responses that the peer does not read at once.
    Bytes,
    /// Connections that wait for bytes: the window of each bounds what `h2`
    /// buffers.
    Blocked,
}

pub(super) const RESOURCES: usize = 4;

/// The most connections that wait for bytes at a time, with a window each.
pub(super) const MAX_BLOCKED: usize = 32;

/// The most requests of one connection that wait for bytes at a time.
const MAX_WAITING: usize = 64;

/// The reason for which a message exceeds the share of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) enum ShareExceeded {
    #[error("this peer's share of buffered bytes is used up (max_buffered_bytes)")]
    Busy,
    #[error("a message of {bytes} bytes is above the share of one connection, {max} (max_buffered_bytes)")]
    Never { bytes: usize, max: usize },
}

impl ShareExceeded {
    /// The status of a request that was not processed: a channel may retry it
    /// on another instance.
    pub(in crate::server) fn into_status(self) -> Status {
        let mut status = Status::resource_exhausted(self.to_string());
        status.metadata_mut().insert(retry::REJECTED, MetadataValue::from_static("1"));
        status
    }
}

/// The amounts of each resource that are held.
#[derive(Debug, Default)]
pub(super) struct ResourceCounts([AtomicUsize; RESOURCES]);

impl ResourceCounts {
    pub(super) fn of(&self, resource: Resource) -> &AtomicUsize {
        &self.0[resource as usize]
    }

    fn add(&self, resource: Resource, amount: usize) -> usize {
        self.of(resource).fetch_add(amount, SeqCst) + amount
    }

    fn subtract(&self, resource: Resource, amount: usize) {
        self.of(resource).fetch_sub(amount, SeqCst);
    }
}

/// One connection of a peer.
#[derive(Debug)]
pub(in crate::server) struct PeerConnection {
    peer: Arc<PeerUsage>,
    usage: ResourceCounts,
    /// The time at which a call last began or ended.
    active_at: Mutex<Instant>,
    /// Cancelled when the connection is evicted.
    evicted: CancellationToken,
    /// Held while requests of this connection wait for bytes, and their number.
    blocked: Mutex<Weak<Share>>,
    waiting: AtomicUsize,
}

/// A share of a resource, held until this is dropped.
#[derive(Debug)]
pub(in crate::server) struct Share {
    connection: Arc<PeerConnection>,
    resource: Resource,
    amount: usize,
}

impl PeerConnection {
    pub(super) fn new(peer: Arc<PeerUsage>) -> Self {
        Self {
            peer,
            usage: ResourceCounts::default(),
            active_at: Mutex::new(Instant::now()),
            evicted: CancellationToken::new(),
            blocked: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn peer(&self) -> &Arc<PeerUsage> {
        &self.peer
    }

    /// Evicts the connection.
    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    /// Returns whether the connection is counted and not evicted.
    pub(super) fn is_open(&self) -> bool {
        self.usage.of(Resource::Connections).load(SeqCst) > 0 && !self.evicted.is_cancelled()
    }

    /// Counts the connection although it is above its peer's share.
    pub(super) fn count_above_share(self: &Arc<Self>) -> Share {
        self.count(Resource::Connections, 1);
        Share { connection: self.clone(), resource: Resource::Connections, amount: 1 }
    }

    /// Completes when the connection is evicted.
    pub(in crate::server) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Completes once no call has begun or ended for `limit`, and none is open.
    pub(in crate::server) async fn idle(&self, limit: Duration) {
        loop {
            let is_open = self.usage.of(Resource::Streams).load(SeqCst) > 0;
            let active_at = if is_open { Instant::now() } else { *self.active_at() };
            let idle_at = active_at + limit;
            if !is_open && idle_at <= Instant::now() {
                return;
            }
            sleep_until(idle_at).await;
        }
    }

    pub(super) fn active_at(&self) -> MutexGuard<'_, Instant> {
        self.active_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the peer, or its network.
    pub(in crate::server) fn address(&self) -> IpAddr {
        self.peer.address
    }

    /// The number of the peer's connections.
    pub(in crate::server) fn connections_of_peer(&self) -> usize {
        self.peer.usage.of(Resource::Connections).load(SeqCst)
    }

    /// Wraps a `task` that takes turns with the peer's others.
    pub(in crate::server) fn in_turn<F>(self: &Arc<Self>, task: F) -> InTurn<F> {
        InTurn::new(task, self.clone())
    }

    /// The peer's permits for long work.
    pub(in crate::server) fn long_work(&self) -> Arc<Semaphore> {
        self.peer.long_work.clone()
    }

    /// Claims `amount` of `resource`; `None` if that is above the share of this
    /// connection or its peer, or above the total.
    pub(in crate::server) fn claim(self: &Arc<Self>, resource: Resource, amount: usize) -> Option<Share> {
        let limit = self.peer.peers.limits[resource as usize];
        // Counted first and then checked, so that two concurrent claims cannot
        // both get the last of it.
        let [in_all, of_peer, of_connection] = self.count(resource, amount);
        let is_within = in_all <= limit && {
            let free = limit - in_all + amount;
            of_peer <= free && of_connection <= free + amount - of_peer
        };
        if is_within {
            return Some(Share { connection: self.clone(), resource, amount });
        }
        self.uncount(resource, amount);
        None
    }

    /// Counts `amount` of `resource` without a check; returns the amounts then
    /// held in all, by the peer and by this connection.
    fn count(&self, resource: Resource, amount: usize) -> [usize; 3] {
        if resource == Resource::Streams {
            *self.active_at() = Instant::now();
        }
        self.usages().map(|usage| usage.add(resource, amount))
    }

    fn uncount(&self, resource: Resource, amount: usize) {
        if resource == Resource::Streams {
            *self.active_at() = Instant::now();
        }
        for usage in self.usages() {
            usage.subtract(resource, amount);
        }
    }

    fn usages(&self) -> [&ResourceCounts; 3] {
        [&self.peer.peers.usage, &self.peer.usage, &self.usage]
    }

    /// Claims `amount` bytes, like [`claim`](Self::claim).
    pub(in crate::server) fn claim_bytes(self: &Arc<Self>, amount: usize) -> Option<Share> {
        self.claim(Resource::Bytes, amount)
    }

    /// Waits until `amount` bytes can be claimed.
    ///
    /// # Errors
    /// When `amount` is above the share of one connection, or too many requests
    /// wait already.
    pub(in crate::server) async fn wait_for_bytes(
        self: Arc<Self>,
        amount: usize,
    ) -> Result<Share, ShareExceeded> {
        let peers = &self.peer.peers;
        // The share of one connection while no other holds anything.
        let max = peers.limits[Resource::Bytes as usize] / 3;
        if amount > max {
            return Err(ShareExceeded::Never { bytes: amount, max });
        }
        let _window = self.block().ok_or(ShareExceeded::Busy)?;
        let (_waiting, waiting) = (WaiterCount::new(&peers.waiting), WaiterCount::new(&self.waiting));
        if waiting.waiters > MAX_WAITING {
            return Err(ShareExceeded::Busy);
        }
        loop {
            let mut freed = pin!(peers.freed.notified());
            // Before the check, so that no notification is missed.
            freed.as_mut().enable();
            match self.claim_bytes(amount) {
                Some(share) => return Ok(share),
                None => freed.await,
            }
        }
    }

    /// Counts this connection as waiting.
    fn block(self: &Arc<Self>) -> Option<Arc<Share>> {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = blocked.upgrade() {
            return Some(share);
        }
        let share = Arc::new(self.claim(Resource::Blocked, 1)?);
        *blocked = Arc::downgrade(&share);
        Some(share)
    }

    /// The amount of `resource` that this connection holds.
    #[cfg(test)]
    pub(super) fn held(&self, resource: Resource) -> usize {
        self.usage.of(resource).load(SeqCst)
    }
}

impl Share {
    pub(in crate::server) fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.connection.uncount(self.resource, self.amount);
        let peers = &self.connection.peer.peers;
        if self.resource == Resource::Bytes && peers.waiting.load(SeqCst) > 0 {
            peers.freed.notify_waiters();
        }
    }
}

/// Counts a waiter until this is dropped.
struct WaiterCount<'a> {
    count: &'a AtomicUsize,
    /// The number of waiters, this one included.
    waiters: usize,
}

impl<'a> WaiterCount<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, waiters: count.fetch_add(1, SeqCst) + 1 }
    }
}

impl Drop for WaiterCount<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, SeqCst);
    }
}
