//! The fair sharing of a server's resources among its peers.
//!
//! A peer may hold as much again as is still free: alone it gets half, two get
//! a third each, and something is always left for one more. The same rule
//! applies to the connections of one peer, so that clients behind one address,
//! such as a proxy, share fairly too. Source: the dynamic thresholds of
//! Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory
//! packet switches", 1998.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::available_parallelism,
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};

mod connection;
mod turns;

pub(super) use connection::{PeerConnection, Resource, Share, ShareExceeded};

use connection::{MAX_BLOCKED, RESOURCES, ResourceCounts};

/// The time since the last start or end of a call after which a connection may
/// be evicted.
const EVICTION_IDLE_TIME: Duration = Duration::from_secs(1);

/// The most connections above a peer's share while others of it close. Without
/// this limit, a peer that opens connections fast gets all of them.
const MAX_EVICTING: usize = 64;

/// The total of each resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResourceLimits {
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) bytes: usize,
}

/// The peers of a server.
#[derive(Debug)]
pub(super) struct Peers {
    limits: [usize; RESOURCES],
    usage: ResourceCounts,
    /// The peers with a connection; an entry is removed with the last one.
    by_address: Mutex<HashMap<IpAddr, Weak<PeerUsage>>>,
    /// Notified when bytes are released while requests wait for them.
    freed: Notify,
    waiting: AtomicUsize,
    /// The number of tasks that the machine can run in parallel.
    cores: usize,
}

/// One peer, which is an address, and its use of resources.
#[derive(Debug)]
struct PeerUsage {
    address: IpAddr,
    peers: Arc<Peers>,
    usage: ResourceCounts,
    connections: Mutex<Vec<Weak<PeerConnection>>>,
    /// Permits for long work on the peer's messages: for half of the cores.
    long_work: Arc<Semaphore>,
    /// Permits for the peer's tasks to be ready, where they are many; and the
    /// number of used ones that are not released yet.
    turns: Arc<Semaphore>,
    ended_turns: AtomicUsize,
}

impl Peers {
    pub(super) fn new(limits: ResourceLimits) -> Arc<Self> {
        let ResourceLimits { connections, streams, bytes } = limits;
        Arc::new(Self {
            limits: [connections, streams, bytes, MAX_BLOCKED],
            usage: ResourceCounts::default(),
            by_address: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            cores: available_parallelism().map_or(1, NonZero::get),
        })
    }

    /// Counts a connection from `address`. Above the share of its peer, the
    /// connection that has been idle longest is evicted: of that peer, or of
    /// the one with the most.
    ///
    /// # Errors
    /// The number of the peer's connections, when none has been idle for
    /// [`EVICTION_IDLE_TIME`], or [`MAX_EVICTING`] have not closed yet.
    pub(super) fn connect(self: &Arc<Self>, address: IpAddr) -> Result<(Arc<PeerConnection>, Share), usize> {
        let connection = self.peer(network(address)).connection();
        if let Some(share) = connection.claim(Resource::Connections, 1) {
            return Ok((connection, share));
        }
        let peer = connection.peer();
        let open = peer.usage.of(Resource::Connections).load(SeqCst);
        // One peer gets at most half.
        if open > self.limits[Resource::Connections as usize] / 2 + MAX_EVICTING {
            return Err(open);
        }
        let evicted = peer.evict() || self.largest_peer().is_some_and(|peer| peer.evict());
        if !evicted {
            return Err(open);
        }
        // The limit is exceeded by one until the other has closed.
        let share = connection.count_above_share();
        Ok((connection, share))
    }

    /// The peer at `address`.
    fn peer(self: &Arc<Self>, address: IpAddr) -> Arc<PeerUsage> {
        let mut by_address = self.by_address();
        if let Some(peer) = by_address.get(&address).and_then(Weak::upgrade) {
            return peer;
        }
        let peer = Arc::new(PeerUsage {
            address,
            peers: self.clone(),
            usage: ResourceCounts::default(),
            connections: Mutex::default(),
            long_work: Arc::new(Semaphore::new((self.cores / 2).max(1))),
            turns: Arc::new(Semaphore::new(self.cores)),
            ended_turns: AtomicUsize::new(0),
        });
        by_address.insert(address, Arc::downgrade(&peer));
        peer
    }

    /// The peer with the most connections.
    fn largest_peer(&self) -> Option<Arc<PeerUsage>> {
        // Outside of the lock, because dropping the last reference to a peer
        // takes it.
        let all: Vec<_> = self.by_address().values().filter_map(Weak::upgrade).collect();
        all.into_iter().max_by_key(|peer| peer.usage.of(Resource::Connections).load(SeqCst))
    }

    /// The amount of `resource` that all peers hold together.
    pub(super) fn held(&self, resource: Resource) -> usize {
        self.usage.of(resource).load(SeqCst)
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, Weak<PeerUsage>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerUsage {
    fn drop(&mut self) {
        let mut by_address = self.peers.by_address();
        // Another connection may have created it again.
        if by_address.get(&self.address).is_some_and(|peer| peer.strong_count() == 0) {
            by_address.remove(&self.address);
        }
    }
}

impl PeerUsage {
    fn connection(self: Arc<Self>) -> Arc<PeerConnection> {
        let connection = Arc::new(PeerConnection::new(self.clone()));
        let mut connections = self.connections();
        // The capacity doubles, so that this is rare.
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Arc::downgrade(&connection));
        connection
    }

    /// Evicts the connection that has been idle longest; `false` if that is
    /// less than [`EVICTION_IDLE_TIME`].
    fn evict(&self) -> bool {
        let all: Vec<_> = self.connections().iter().filter_map(Weak::upgrade).collect();
        let open = all.into_iter().filter(|connection| connection.is_open());
        let Some(quietest) = open.min_by_key(|connection| *connection.active_at()) else { return false };
        let is_quiet = quietest.active_at().elapsed() >= EVICTION_IDLE_TIME;
        if is_quiet {
            quietest.evict();
        }
        is_quiet
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Weak<PeerConnection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network of an address: the owner of an IPv6 address usually has all of
/// its last 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn peers(streams: usize, bytes: usize) -> Arc<Peers> {
        Peers::new(ResourceLimits { connections: 100, streams, bytes })
    }

    fn connect(peers: &Arc<Peers>, last: u8) -> Arc<PeerConnection> {
        peers.connect(IpAddr::from([127, 0, 0, last])).unwrap().0
    }

    fn take_all(connection: &Arc<PeerConnection>) -> Vec<Share> {
        std::iter::from_fn(|| connection.claim(Resource::Streams, 1)).collect()
    }

    #[test]
    fn one_peer_gets_no_more_than_is_left_to_the_others() {
        let peers = peers(1_000, 0);
        let mut greedy: Vec<_> = (0..50).map(|_| connect(&peers, 1)).collect();
        let held: Vec<_> = greedy.iter().map(take_all).collect();
        let in_all: usize = held.iter().map(Vec::len).sum();
        assert!((450..=500).contains(&in_all), "{in_all}");
        let modest = connect(&peers, 2);
        assert!(take_all(&modest).len() > 100);
        // What was held is free again.
        drop(held);
        greedy.truncate(1);
        assert_eq!(greedy[0].held(Resource::Streams), 0);
        assert!(take_all(&greedy[0]).len() > 300);
    }

    #[test]
    fn one_connection_leaves_something_to_the_others_of_its_peer() {
        let peers = peers(1_000, 0);
        let greedy = connect(&peers, 1);
        let held = take_all(&greedy);
        assert!((300..=334).contains(&held.len()), "{}", held.len());
        let other = connect(&peers, 1);
        assert!(take_all(&other).len() > 50);
    }

    #[test]
    fn what_is_above_everything_is_refused_and_holds_nothing() {
        let peers = peers(0, 100);
        let connection = connect(&peers, 1);
        assert!(connection.claim(Resource::Bytes, 101).is_none());
        assert!(connection.claim(Resource::Bytes, usize::MAX / 4).is_none());
        assert_eq!(connection.held(Resource::Bytes), 0);
        assert!(connection.claim(Resource::Bytes, 30).is_some());
    }

    #[test]
    fn an_entry_goes_with_the_last_connection() {
        let peers = peers(10, 10);
        let (first, second) = (connect(&peers, 1), connect(&peers, 1));
        drop(first);
        assert_eq!(peers.by_address().len(), 1);
        drop(second);
        assert_eq!(peers.by_address().len(), 0);
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        for (one, other, same) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let network = |text: &str| network(text.parse().unwrap());
            assert_eq!(network(one) == network(other), same, "{one} {other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn above_its_share_the_quietest_connection_of_a_peer_makes_room() {
        let peers = Peers::new(ResourceLimits { connections: 10, streams: 100, bytes: 0 });
        let connect = |last: u8| peers.connect(IpAddr::from([127, 0, 0, last]));
        let mut greedy: Vec<_> = (0..5).map(|_| connect(1).unwrap()).collect();
        assert_eq!(connect(1).unwrap_err(), 5, "none of them is quiet");
        let other = connect(2).unwrap();
        tokio::time::advance(EVICTION_IDLE_TIME).await;
        drop(greedy[0].0.claim(Resource::Streams, 1));
        greedy.push(connect(1).unwrap());
        let evicted = |all: &[(Arc<PeerConnection>, Share)]| {
            all.iter().map(|(connection, _)| !connection.is_open()).collect::<Vec<_>>()
        };
        assert_eq!(evicted(&greedy), [false, true, false, false, false, false]);
        assert!(other.0.is_open());
        // The evicted one has closed.
        greedy.remove(1);
        assert!(connect(2).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let peers = peers(10, 0);
        let connection = connect(&peers, 1);
        let began = Instant::now();
        let call = connection.claim(Resource::Streams, 1);
        let minute = Duration::from_secs(60);
        let end = async {
            tokio::time::sleep(minute * 10).await;
            drop(call);
        };
        tokio::join!(connection.idle(minute), end);
        assert_eq!(began.elapsed().as_secs(), 11 * 60);
    }
}
