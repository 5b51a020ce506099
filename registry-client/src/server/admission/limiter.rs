//! The concurrency limiter of one method: admits a call, queues it briefly, or
//! rejects it.

use std::{
    collections::{HashMap, hash_map},
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::timeout,
};
use tracing::{info, warn};

use super::super::state::MethodState;
use super::gradient::{Bounds, CallEnd, CallStart, Gradient};

/// The time without a rejection after which an overload is over.
const RECOVERY_TIME: Duration = Duration::from_secs(10);

/// The time for which the head of a rejection is reused; its numbers and its
/// retry delay may be that old.
const RESPONSE_TTL: Duration = Duration::from_millis(20);

/// A limit on concurrent calls with a bounded queue.
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    /// The name of what is limited.
    name: Arc<str>,
    queue: usize,
    queue_wait: Duration,
    waiting: AtomicUsize,
    /// As many slots as the limit; first come, first served.
    slots: Arc<Semaphore>,
    state: Mutex<LimiterState>,
}

#[derive(Debug)]
struct LimiterState {
    gradient: Gradient,
    /// The slots that exist, taken ones included.
    slots: usize,
    in_flight: usize,
    /// The calls in flight of each peer that has any.
    per_peer: HashMap<IpAddr, usize>,
    rejected: u64,
    overload: Option<Overload>,
    /// The cached heads of rejections with their times: for overload, and above
    /// a peer's share.
    responses: [Option<(Instant, HeaderMap)>; 2],
}

#[derive(Debug)]
struct Overload {
    last: Instant,
    calls: u64,
}

/// The decision about a call.
pub(super) enum Decision<W> {
    Admitted(Permit),
    /// The call waits; the future gives the permit or the rejection.
    Queued(W),
    Rejected(Rejection),
}

/// The reason for a rejection.
#[derive(Clone, Copy, Debug)]
pub(super) enum RejectReason {
    Overloaded,
    /// The peer has so many calls in flight, which is its share.
    PeerShare(usize),
}

/// The rejection of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) name: Arc<str>,
    pub(super) in_flight: usize,
    pub(super) limit: usize,
    /// The peer's calls in flight, if its share is the reason.
    pub(super) of_peer: Option<usize>,
}

/// The message, without numbers that change, so that tools can group by it.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.of_peer {
            None => write!(f, "the server has as many calls of {name} under way as it may"),
            Some(_) => write!(f, "the server has as many calls of {name} under way for this peer as it may"),
        }
    }
}

/// A peer may have this many times as many calls in flight as slots are free,
/// and this many in any case. A peer that is alone gets four fifths: calls do
/// real work, so they are shared less strictly than the resources of
/// [`peers`](super::super::peers).
const PEER_SHARE_FACTOR: usize = 4;

impl ConcurrencyLimiter {
    /// A limiter whose limit follows the latency within `bounds`; up to `queue`
    /// calls wait, each up to `queue_wait`.
    pub(super) fn new(name: &str, bounds: Bounds, queue: usize, queue_wait: Duration) -> Arc<Self> {
        let gradient = Gradient::new(bounds, now());
        let slots = gradient.limit();
        Arc::new(Self {
            name: name.into(),
            queue,
            queue_wait,
            waiting: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(slots)),
            state: Mutex::new(LimiterState {
                gradient,
                slots,
                in_flight: 0,
                per_peer: HashMap::default(),
                rejected: 0,
                overload: None,
                responses: [None, None],
            }),
        })
    }

    /// A limiter with a fixed limit and no queue.
    pub(super) fn fixed(name: &str, limit: usize) -> Arc<Self> {
        Self::new(name, Bounds { min: limit, max: limit, initial: limit }, 0, Duration::ZERO)
    }

    /// Decides about a call of `peer` whose caller waits for `caller_timeout`.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        caller_timeout: Option<Duration>,
    ) -> Decision<impl Future<Output = Result<Permit, Rejection>> + Send + use<>> {
        match self.slots.clone().try_acquire_owned() {
            Ok(slot) => match self.clone().begin(slot, peer, caller_timeout) {
                Ok(permit) => Decision::Admitted(permit),
                Err(rejection) => Decision::Rejected(rejection),
            },
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => match self.enqueue(caller_timeout) {
                Some(queue_place) => Decision::Queued(queue_place.wait(peer, caller_timeout)),
                None => Decision::Rejected(self.record_rejection(RejectReason::Overloaded)),
            },
        }
    }

    /// The current load.
    pub(super) fn snapshot(&self) -> MethodState {
        let state = self.state();
        MethodState {
            method: self.name.to_string(),
            limit: state.gradient.limit(),
            under_way: state.in_flight,
            waiting: self.waiting.load(Relaxed),
            refused: state.rejected,
            latency_us: state.gradient.latency().map(|seconds| (seconds * 1e6) as u64),
        }
    }

    /// The reason for which a call of `peer` can neither run nor wait; `None`
    /// if it can.
    pub(super) fn reject_reason(
        &self,
        peer: IpAddr,
        caller_timeout: Option<Duration>,
    ) -> Option<RejectReason> {
        if self.slots.available_permits() > 0 {
            return self.state().above_share(peer).map(RejectReason::PeerShare);
        }
        let fits_queue = self.fits_queue(self.waiting.load(Relaxed), caller_timeout);
        (!fits_queue).then_some(RejectReason::Overloaded)
    }

    /// Rejects a call; returns the head of the response, which `head` creates
    /// unless a cached one is fresh.
    pub(super) fn reject_response(
        &self,
        reason: RejectReason,
        head: impl FnOnce(&Rejection) -> HeaderMap,
    ) -> HeaderMap {
        let (now, rejection) = (now(), self.record_rejection(reason));
        let is_share = rejection.of_peer.is_some();
        let reused = |(made, head): &(Instant, HeaderMap)| {
            (now.saturating_duration_since(*made) < RESPONSE_TTL).then(|| head.clone())
        };
        let known = self.state().responses[usize::from(is_share)].as_ref().and_then(reused);
        known.unwrap_or_else(|| {
            let head = head(&rejection);
            self.state().responses[usize::from(is_share)] = Some((now, head.clone()));
            head
        })
    }

    /// A place in the queue, if the call's turn will come in time.
    fn enqueue(self: &Arc<Self>, caller_timeout: Option<Duration>) -> Option<QueuePlace> {
        let before = self.waiting.fetch_add(1, Relaxed);
        // Counted until it is dropped.
        let queue_place = QueuePlace { limiter: self.clone() };
        self.fits_queue(before, caller_timeout).then_some(queue_place)
    }

    /// Returns whether the turn of a call with `before` others in the queue
    /// comes in time.
    fn fits_queue(&self, before: usize, caller_timeout: Option<Duration>) -> bool {
        let turn = {
            let state = self.state();
            let latency = state.gradient.latency().unwrap_or(0.0);
            latency * (before + 1) as f64 / state.gradient.limit().max(1) as f64
        };
        let max = self.queue_wait.min(caller_timeout.unwrap_or(Duration::MAX)).as_secs_f64();
        before < self.queue && turn <= max
    }

    /// Begins the call that has got its `slot`.
    ///
    /// # Errors
    /// When the call would exceed the share of its peer.
    fn begin(
        self: Arc<Self>,
        slot: OwnedSemaphorePermit,
        peer: Option<IpAddr>,
        caller_timeout: Option<Duration>,
    ) -> Result<Permit, Rejection> {
        let now = now();
        let mut state = self.state();
        if let Some(peer) = peer {
            if let Some(of_peer) = state.above_share(peer) {
                drop(state);
                return Err(self.record_rejection(RejectReason::PeerShare(of_peer)));
            }
            *state.per_peer.entry(peer).or_default() += 1;
        }
        state.in_flight += 1;
        let in_flight = state.in_flight;
        let start = state.gradient.begin(in_flight, caller_timeout, now);
        self.apply_limit(&mut state);
        let over = state.overload.take_if(|r| now.duration_since(r.last) >= RECOVERY_TIME);
        drop(state);
        if let Some(Overload { calls, .. }) = over {
            info!(method = %self.name, rejected = calls, "calls of {} are admitted again after {calls} rejections", self.name);
        }
        Ok(Permit { limiter: self, start, ended: Some(CallEnd::CutOff), peer, slot: Some(slot) })
    }

    fn record_rejection(&self, reason: RejectReason) -> Rejection {
        let now = now();
        let of_peer = match reason {
            RejectReason::Overloaded => None,
            RejectReason::PeerShare(of_peer) => Some(of_peer),
        };
        let mut state = self.state();
        state.rejected += 1;
        state.gradient.reject(now);
        let (in_flight, limit) = (state.in_flight, state.gradient.limit());
        let rejection = Rejection { name: self.name.clone(), in_flight, limit, of_peer };
        let first = state.overload.is_none();
        let overload = state.overload.get_or_insert(Overload { last: now, calls: 0 });
        overload.last = now;
        overload.calls += 1;
        drop(state);
        if first {
            warn!(method = %self.name, in_flight, limit, ?of_peer, "rejecting calls: {rejection}");
        }
        rejection
    }

    /// Adjusts the number of slots to the limit, as far as slots are free to be
    /// removed.
    fn apply_limit(&self, state: &mut LimiterState) {
        let limit = state.gradient.limit();
        if limit > state.slots {
            self.slots.add_permits(limit - state.slots);
            state.slots = limit;
        } else if limit < state.slots {
            state.slots -= self.slots.forget_permits(state.slots - limit);
        }
    }

    fn state(&self) -> MutexGuard<'_, LimiterState> {
        // Every change is complete, so a poisoned state is valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LimiterState {
    /// The calls in flight of `peer`, if that is its share or more.
    fn above_share(&self, peer: IpAddr) -> Option<usize> {
        let free = self.gradient.limit().saturating_sub(self.in_flight);
        let of_peer = self.per_peer.get(&peer).copied().unwrap_or_default();
        (of_peer >= PEER_SHARE_FACTOR.saturating_mul(free).max(PEER_SHARE_FACTOR)).then_some(of_peer)
    }
}

/// A place in the queue, counted until it is dropped.
struct QueuePlace {
    limiter: Arc<ConcurrencyLimiter>,
}

impl QueuePlace {
    async fn wait(self, peer: Option<IpAddr>, caller_timeout: Option<Duration>) -> Result<Permit, Rejection> {
        let limiter = &self.limiter;
        let began = now();
        let max = limiter.queue_wait.min(caller_timeout.unwrap_or(Duration::MAX));
        let Ok(Ok(slot)) = timeout(max, limiter.slots.clone().acquire_owned()).await else {
            return Err(limiter.record_rejection(RejectReason::Overloaded));
        };
        let left =
            caller_timeout.map(|caller_timeout| caller_timeout.saturating_sub(now().duration_since(began)));
        limiter.clone().begin(slot, peer, left)
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.limiter.waiting.fetch_sub(1, Relaxed);
    }
}

/// The permit of a call, which is in flight until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: Arc<ConcurrencyLimiter>,
    start: CallStart,
    /// The end of the call if this is dropped now: the caller has given up.
    /// `None` once the handler has ended.
    ended: Option<CallEnd>,
    peer: Option<IpAddr>,
    slot: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Records the end of the handler. The call stays in flight until its
    /// response was read.
    pub(super) fn complete(&mut self, ended: CallEnd) {
        self.ended = None;
        let mut state = self.limiter.state();
        let in_flight = state.in_flight;
        state.gradient.end(&self.start, ended, in_flight, now());
        self.limiter.apply_limit(&mut state);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        state.in_flight -= 1;
        let in_flight = state.in_flight;
        if let Some(hash_map::Entry::Occupied(mut of_peer)) = self.peer.map(|peer| state.per_peer.entry(peer))
        {
            *of_peer.get_mut() -= 1;
            if *of_peer.get() == 0 {
                of_peer.remove();
            }
        }
        if let Some(ended) = self.ended {
            state.gradient.end(&self.start, ended, in_flight, now());
        }
        self.limiter.apply_limit(&mut state);
        let slot = self.slot.take();
        if state.slots > state.gradient.limit()
            && let Some(slot) = slot
        {
            slot.forget();
            state.slots -= 1;
        }
    }
}

/// The time of tokio's clock, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(10);

    fn limiter(limit: usize, queue: usize) -> Arc<ConcurrencyLimiter> {
        ConcurrencyLimiter::new("test", Bounds { min: limit, max: limit, initial: limit }, queue, WAIT)
    }

    impl Permit {
        fn end(mut self) {
            self.complete(CallEnd::Completed);
        }
    }

    fn admitted_at_once(limiter: &Arc<ConcurrencyLimiter>) -> Permit {
        match limiter.admit(None, None) {
            Decision::Admitted(permit) => permit,
            _ => panic!("{limiter:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_is_let_in_when_another_ends() {
        let limiter = limiter(1, 1);
        let first = admitted_at_once(&limiter);
        let Decision::Queued(second) = limiter.admit(None, None) else { panic!("{limiter:?}") };
        assert!(matches!(limiter.admit(None, None), Decision::Rejected(_)), "the queue is full");
        let second = tokio::spawn(second);
        tokio::task::yield_now().await;
        first.end();
        let permit = second.await.unwrap().unwrap();
        assert_eq!(limiter.state().in_flight, 1);
        drop(permit);
        drop(admitted_at_once(&limiter));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_no_longer_than_the_queue_allows() {
        let limiter = limiter(1, 9);
        let _first = admitted_at_once(&limiter);
        let Decision::Queued(second) = limiter.admit(None, None) else { panic!("{limiter:?}") };
        let began = now();
        let rejection = second.await.unwrap_err();
        assert_eq!((rejection.in_flight, rejection.limit), (1, 1));
        assert!(now().duration_since(began) <= WAIT + Duration::from_millis(1));
        assert_eq!(limiter.waiting.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_turn_comes_too_late_is_refused_at_once() {
        let limiter = limiter(1, 9);
        let expected_latency = admitted_at_once(&limiter);
        tokio::time::advance(Duration::from_millis(6)).await;
        expected_latency.end();
        let _first = admitted_at_once(&limiter);
        assert!(matches!(limiter.admit(None, Some(Duration::from_millis(5))), Decision::Rejected(_)));
        let Decision::Queued(_second) = limiter.admit(None, Some(Duration::from_secs(1))) else {
            panic!("{limiter:?}")
        };
        assert!(
            matches!(limiter.admit(None, Some(Duration::from_secs(1))), Decision::Rejected(_)),
            "6 + 6 ms"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_gives_up_leaves_its_place_and_its_turn() {
        let limiter = limiter(1, 1);
        let first = admitted_at_once(&limiter);
        let Decision::Queued(second) = limiter.admit(None, None) else { panic!("{limiter:?}") };
        drop(second);
        let Decision::Queued(third) = limiter.admit(None, None) else { panic!("{limiter:?}") };
        first.end();
        drop(third);
        drop(admitted_at_once(&limiter));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_shrinks_is_kept_as_calls_end_and_one_that_grows_at_once() {
        let limiter = ConcurrencyLimiter::new("test", Bounds { min: 1, max: 64, initial: 64 }, 0, WAIT);
        for _ in 0..3 {
            let baseline = admitted_at_once(&limiter);
            tokio::time::advance(Duration::from_millis(10)).await;
            baseline.end();
        }
        let mut in_flight = vec![admitted_at_once(&limiter)];
        // One is always left, so that the limit does not start anew.
        for _ in 0..200 {
            while let Decision::Admitted(permit) = limiter.admit(None, None) {
                in_flight.push(permit);
            }
            tokio::time::advance(Duration::from_secs(2)).await;
            for permit in in_flight.drain(1..) {
                permit.end();
            }
        }
        let limit = limiter.state().gradient.limit();
        assert!(limit < 64, "{limiter:?}");
        assert_eq!(limiter.state().slots, limit);
        assert_eq!(limiter.slots.available_permits(), limit - 1);
        drop(in_flight);
        drop(admitted_at_once(&limiter));
        assert_eq!(limiter.slots.available_permits(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_leaves_places_to_the_others() {
        for (limit, max) in [(1, 1), (4, 4), (5, 4), (10, 8), (100, 80), (1_000, 800)] {
            let limiter = limiter(limit, 0);
            let of = |last: u8| {
                let peer = Some(IpAddr::from([127, 0, 0, last]));
                std::iter::from_fn(|| match limiter.admit(peer, None) {
                    Decision::Admitted(permit) => Some(permit),
                    _ => None,
                })
                .collect::<Vec<_>>()
            };
            let greedy = of(1);
            assert_eq!(greedy.len(), max, "of {limit}");
            let modest = of(2);
            assert_eq!(modest.is_empty(), limit == max, "of {limit}");
            drop((greedy, modest));
            assert!(limiter.state().per_peer.is_empty());
            assert_eq!(of(1).len(), max, "again, of {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_under_way_until_its_answer_was_taken() {
        let limiter = limiter(1, 0);
        let mut first = admitted_at_once(&limiter);
        tokio::time::advance(Duration::from_millis(5)).await;
        first.complete(CallEnd::Completed);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(matches!(limiter.admit(None, None), Decision::Rejected(_)));
        drop(first);
        assert_eq!(limiter.snapshot().latency_us, Some(5_000));
        drop(admitted_at_once(&limiter));
    }
}
