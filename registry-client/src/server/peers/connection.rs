//! What one connection holds, and how it gets more.

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

use super::{Peer, turns::InTurn};
use crate::policy::retry;

/// What is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Resource {
    Connections,
    /// Open streams, from their first frame until their answer was taken.
    Streams,
    /// Bytes of messages: of requests, until they are answered, where they do
    /// not arrive at once; of responses that the peer does not take at once.
    Bytes,
    /// Connections that do not read on until there is room: what `h2` holds of
    /// each is bounded by its window.
    Blocked,
}

pub(super) const RESOURCES: usize = 4;

/// How many connections may wait for room at a time: with a window each.
pub(super) const MAX_BLOCKED: usize = 32;

/// How many requests of one connection may wait for room at a time.
const MAX_WAITING: usize = 64;

/// Why there is no room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) enum NoRoom {
    #[error("the server holds as many bytes of messages for this peer as it may (max_buffered_bytes)")]
    Busy,
    #[error(
        "a message of {bytes} bytes is more than one connection may have the server hold, {most} (max_buffered_bytes)"
    )]
    Never { bytes: usize, most: usize },
}

impl NoRoom {
    /// The response to a request that was not looked at: a channel may try
    /// another instance.
    pub(in crate::server) fn refused(self) -> Status {
        let mut status = Status::resource_exhausted(self.to_string());
        status.metadata_mut().insert(retry::REJECTED, MetadataValue::from_static("1"));
        status
    }
}

/// How much is held of each resource.
#[derive(Debug, Default)]
pub(super) struct Usage([AtomicUsize; RESOURCES]);

impl Usage {
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
    peer: Arc<Peer>,
    usage: Usage,
    /// When a call last began or ended on it.
    active_at: Mutex<Instant>,
    /// Has it closed, so that another has room.
    evicted: CancellationToken,
    /// Held while requests of this connection wait for room, and how many do.
    blocked: Mutex<Weak<Share>>,
    waiting: AtomicUsize,
}

/// Something that a connection holds, until this is dropped.
#[derive(Debug)]
pub(in crate::server) struct Share {
    connection: Arc<PeerConnection>,
    resource: Resource,
    amount: usize,
}

impl PeerConnection {
    pub(super) fn new(peer: Arc<Peer>) -> Self {
        Self {
            peer,
            usage: Usage::default(),
            active_at: Mutex::new(Instant::now()),
            evicted: CancellationToken::new(),
            blocked: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Has it close, so that another has room.
    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    /// Returns whether it counts and is not on its way out.
    pub(super) fn is_open(&self) -> bool {
        self.usage.of(Resource::Connections).load(SeqCst) > 0 && !self.evicted.is_cancelled()
    }

    /// One that counts although it is above its peer's share.
    pub(super) fn count_above_share(self: &Arc<Self>) -> Share {
        self.count(Resource::Connections, 1);
        Share { connection: self.clone(), resource: Resource::Connections, amount: 1 }
    }

    /// Completes when it is to close, so that another has room.
    pub(in crate::server) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Completes once no call has begun or ended on it for `limit`, and none is
    /// open.
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

    /// How many connections its peer has.
    pub(in crate::server) fn connections_of_peer(&self) -> usize {
        self.peer.usage.of(Resource::Connections).load(SeqCst)
    }

    /// Has `task` take turns with its peer's others.
    pub(in crate::server) fn in_turn<F>(self: &Arc<Self>, task: F) -> InTurn<F> {
        InTurn::new(task, self.clone())
    }

    /// Permits for long work that is done for its peer.
    pub(in crate::server) fn long_work(&self) -> Arc<Semaphore> {
        self.peer.long_work.clone()
    }

    /// `amount` more of `resource`; `None` where that is above the share of
    /// this connection, of its peer, or above what there is.
    pub(in crate::server) fn claim(self: &Arc<Self>, resource: Resource, amount: usize) -> Option<Share> {
        let limit = self.peer.peers.limits[resource as usize];
        // Counted first and then looked at, so that two at once cannot both
        // get the last of it.
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

    /// Counts `amount` more of `resource`, whether there is that much or not;
    /// how much is held then in all, by the peer and by this connection.
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

    fn usages(&self) -> [&Usage; 3] {
        [&self.peer.peers.usage, &self.peer.usage, &self.usage]
    }

    /// `amount` more bytes, as [`claim`](Self::claim) does.
    pub(in crate::server) fn claim_bytes(self: &Arc<Self>, amount: usize) -> Option<Share> {
        self.claim(Resource::Bytes, amount)
    }

    /// The same once there is room for `amount`.
    ///
    /// # Errors
    /// When there never is, or too many wait already.
    pub(in crate::server) async fn wait_for_bytes(self: Arc<Self>, amount: usize) -> Result<Share, NoRoom> {
        let peers = &self.peer.peers;
        // What one connection gets while nobody else holds anything.
        let most = peers.limits[Resource::Bytes as usize] / 3;
        if amount > most {
            return Err(NoRoom::Never { bytes: amount, most });
        }
        let _window = self.block().ok_or(NoRoom::Busy)?;
        let (_waiting, waiting) = (Waiting::new(&peers.waiting), Waiting::new(&self.waiting));
        if waiting.among > MAX_WAITING {
            return Err(NoRoom::Busy);
        }
        loop {
            let mut freed = pin!(peers.freed.notified());
            // Before looking, so that nothing is missed in between.
            freed.as_mut().enable();
            match self.claim_bytes(amount) {
                Some(share) => return Ok(share),
                None => freed.await,
            }
        }
    }

    /// Counts this connection as one that waits.
    fn block(self: &Arc<Self>) -> Option<Arc<Share>> {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = blocked.upgrade() {
            return Some(share);
        }
        let share = Arc::new(self.claim(Resource::Blocked, 1)?);
        *blocked = Arc::downgrade(&share);
        Some(share)
    }

    /// How much this connection holds of `resource`.
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

/// Counts one that waits, until this is dropped.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    /// How many wait, this one included.
    among: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, among: count.fetch_add(1, SeqCst) + 1 }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, SeqCst);
    }
}
