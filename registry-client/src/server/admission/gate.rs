//! The gate before one method: lets a call in, has it wait shortly, or refuses
//! it.

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
use super::gradient::{Begun, Bounds, Ended, Gradient};

/// After so long without a refusal, refusing is over.
const CALM_AGAIN: Duration = Duration::from_secs(10);

/// How long a response that refuses is used again: its numbers, and when it tells
/// callers to come back, are that old.
const REUSE_RESPONSE: Duration = Duration::from_millis(20);

/// A bounded number of calls under way and a bounded queue before them.
#[derive(Debug)]
pub(super) struct Gate {
    /// What is behind it, in words.
    name: Arc<str>,
    queue: usize,
    queue_wait: Duration,
    waiting: AtomicUsize,
    /// As many as the limit; first come, first served.
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gradient: Gradient,
    /// How many permits exist, taken ones included.
    permits: usize,
    under_way: usize,
    /// The same of each peer; those that have none are not here.
    of_peers: HashMap<IpAddr, usize>,
    refused: u64,
    refusing: Option<Refusing>,
    /// The head of a response that refuses, and when it was made: for lack of room,
    /// and above a peer's share.
    responses: [Option<(Instant, HeaderMap)>; 2],
}

#[derive(Debug)]
struct Refusing {
    last: Instant,
    calls: u64,
}

/// What becomes of a call at the gate.
pub(super) enum Entry<W> {
    In(Ticket),
    /// It may be let in soon; gives the ticket or the refusal.
    Wait(W),
    Refused(Refusal),
}

/// What a call lacks that is not let in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lack {
    Room,
    /// Its peer has so many calls under way, which is its share.
    Share(usize),
}

/// Why a call was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) name: Arc<str>,
    pub(super) under_way: usize,
    pub(super) limit: usize,
    /// How many of those under way are its peer's, where that is why.
    pub(super) of_peer: Option<usize>,
}

/// Holds no number that changes, so that tools can group by it.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.of_peer {
            None => write!(f, "the server has as many calls of {name} under way as it may"),
            Some(_) => write!(f, "the server has as many calls of {name} under way for this peer as it may"),
        }
    }
}

/// A peer may have four times as many calls under way as are still free, and
/// this many in any case. Of a method that nobody else calls it gets four
/// fifths: calls do real work, so they are shared less strictly than what
/// [`peers`](super::super::peers) is about.
const SHARE: usize = 4;

impl Gate {
    /// A gate whose limit follows the latency within `bounds`; up to `queue`
    /// calls wait before it, each up to `queue_wait`.
    pub(super) fn new(name: &str, bounds: Bounds, queue: usize, queue_wait: Duration) -> Arc<Self> {
        let gradient = Gradient::new(bounds, now());
        let permits = gradient.limit();
        Arc::new(Self {
            name: name.into(),
            queue,
            queue_wait,
            waiting: AtomicUsize::new(0),
            permits: Arc::new(Semaphore::new(permits)),
            state: Mutex::new(State {
                gradient,
                permits,
                under_way: 0,
                of_peers: HashMap::default(),
                refused: 0,
                refusing: None,
                responses: [None, None],
            }),
        })
    }

    /// A gate for at most so many at once, however long they take.
    pub(super) fn fixed(name: &str, limit: usize) -> Arc<Self> {
        Self::new(name, Bounds { min: limit, max: limit, initial: limit }, 0, Duration::ZERO)
    }

    /// A call of `peer` is at the gate whose caller allows it `caller_timeout` from
    /// now.
    pub(super) fn enter(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        caller_timeout: Option<Duration>,
    ) -> Entry<impl Future<Output = Result<Ticket, Refusal>> + Send + use<>> {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => match self.clone().begin(permit, peer, caller_timeout) {
                Ok(ticket) => Entry::In(ticket),
                Err(refusal) => Entry::Refused(refusal),
            },
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => match self.join(caller_timeout) {
                Some(place) => Entry::Wait(place.wait(peer, caller_timeout)),
                None => Entry::Refused(self.refuse(Lack::Room)),
            },
        }
    }

    /// How much there is to do here.
    pub(super) fn state_now(&self) -> MethodState {
        let state = self.state();
        MethodState {
            method: self.name.to_string(),
            limit: state.gradient.limit(),
            under_way: state.under_way,
            waiting: self.waiting.load(Relaxed),
            refused: state.refused,
            latency_us: state.gradient.latency().map(|seconds| (seconds * 1e6) as u64),
        }
    }

    /// What a call of `peer` lacks that can neither begin nor wait.
    pub(super) fn lack(&self, peer: IpAddr, caller_timeout: Option<Duration>) -> Option<Lack> {
        if self.permits.available_permits() > 0 {
            return self.state().above_share(peer).map(Lack::Share);
        }
        let has_turn = self.has_turn(self.waiting.load(Relaxed), caller_timeout);
        (!has_turn).then_some(Lack::Room)
    }

    /// Refuses a call for what it lacks; the head of the response, as `head` makes
    /// it.
    pub(super) fn reject(&self, lack: Lack, head: impl FnOnce(&Refusal) -> HeaderMap) -> HeaderMap {
        let (now, refusal) = (now(), self.refuse(lack));
        let is_share = refusal.of_peer.is_some();
        let reused = |(made, head): &(Instant, HeaderMap)| {
            (now.saturating_duration_since(*made) < REUSE_RESPONSE).then(|| head.clone())
        };
        let known = self.state().responses[usize::from(is_share)].as_ref().and_then(reused);
        known.unwrap_or_else(|| {
            let head = head(&refusal);
            self.state().responses[usize::from(is_share)] = Some((now, head.clone()));
            head
        })
    }

    /// A place in the queue, if the call's turn will come in time.
    fn join(self: &Arc<Self>, caller_timeout: Option<Duration>) -> Option<Place> {
        let before = self.waiting.fetch_add(1, Relaxed);
        // Counts from here on, and no more when it is dropped.
        let place = Place { gate: self.clone() };
        self.has_turn(before, caller_timeout).then_some(place)
    }

    /// Returns whether the turn of a call comes in time that has so many before
    /// it in the queue.
    fn has_turn(&self, before: usize, caller_timeout: Option<Duration>) -> bool {
        let turn = {
            let state = self.state();
            let latency = state.gradient.latency().unwrap_or(0.0);
            latency * (before + 1) as f64 / state.gradient.limit().max(1) as f64
        };
        let most = self.queue_wait.min(caller_timeout.unwrap_or(Duration::MAX)).as_secs_f64();
        before < self.queue && turn <= most
    }

    /// Begins the call that has got `permit`.
    ///
    /// # Errors
    /// When it would be above the share of its peer.
    fn begin(
        self: Arc<Self>,
        permit: OwnedSemaphorePermit,
        peer: Option<IpAddr>,
        caller_timeout: Option<Duration>,
    ) -> Result<Ticket, Refusal> {
        let now = now();
        let mut state = self.state();
        if let Some(peer) = peer {
            if let Some(of_peer) = state.above_share(peer) {
                drop(state);
                return Err(self.refuse(Lack::Share(of_peer)));
            }
            *state.of_peers.entry(peer).or_default() += 1;
        }
        state.under_way += 1;
        let under_way = state.under_way;
        let begun = state.gradient.begin(under_way, caller_timeout, now);
        self.resize(&mut state);
        let over = state.refusing.take_if(|r| now.duration_since(r.last) >= CALM_AGAIN);
        drop(state);
        if let Some(Refusing { calls, .. }) = over {
            info!(method = %self.name, refused = calls, "all calls of {} are let in again; {calls} were refused", self.name);
        }
        Ok(Ticket { gate: self, begun, ended: Some(Ended::CutOff), peer, permit: Some(permit) })
    }

    fn refuse(&self, lack: Lack) -> Refusal {
        let now = now();
        let of_peer = match lack {
            Lack::Room => None,
            Lack::Share(of_peer) => Some(of_peer),
        };
        let mut state = self.state();
        state.refused += 1;
        let (under_way, limit) = (state.under_way, state.gradient.limit());
        let refusal = Refusal { name: self.name.clone(), under_way, limit, of_peer };
        let first = state.refusing.is_none();
        let refusing = state.refusing.get_or_insert(Refusing { last: now, calls: 0 });
        refusing.last = now;
        refusing.calls += 1;
        drop(state);
        if first {
            warn!(method = %self.name, under_way, limit, ?of_peer, "calls are refused: {refusal}");
        }
        refusal
    }

    /// Makes as many permits exist as the limit says, as far as free ones can
    /// be taken away.
    fn resize(&self, state: &mut State) {
        let limit = state.gradient.limit();
        if limit > state.permits {
            self.permits.add_permits(limit - state.permits);
            state.permits = limit;
        } else if limit < state.permits {
            state.permits -= self.permits.forget_permits(state.permits - limit);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is whole, so what a panic left is whole too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many calls `peer` has under way, where that is its share of what is free
    /// or more.
    fn above_share(&self, peer: IpAddr) -> Option<usize> {
        let free = self.gradient.limit().saturating_sub(self.under_way);
        let of_peer = self.of_peers.get(&peer).copied().unwrap_or_default();
        (of_peer >= SHARE.saturating_mul(free).max(SHARE)).then_some(of_peer)
    }
}

/// Counts as waiting until it is dropped.
struct Place {
    gate: Arc<Gate>,
}

impl Place {
    async fn wait(self, peer: Option<IpAddr>, caller_timeout: Option<Duration>) -> Result<Ticket, Refusal> {
        let gate = &self.gate;
        let began = now();
        let most = gate.queue_wait.min(caller_timeout.unwrap_or(Duration::MAX));
        let Ok(Ok(permit)) = timeout(most, gate.permits.clone().acquire_owned()).await else {
            return Err(gate.refuse(Lack::Room));
        };
        let left =
            caller_timeout.map(|caller_timeout| caller_timeout.saturating_sub(now().duration_since(began)));
        gate.clone().begin(permit, peer, left)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Relaxed);
    }
}

/// A call that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    gate: Arc<Gate>,
    begun: Begun,
    /// How its handler ends if it is dropped now: its caller has given up.
    /// `None` once that is known.
    ended: Option<Ended>,
    peer: Option<IpAddr>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    /// The handler has ended. The call is under way until its response was
    /// taken.
    pub(super) fn answer(&mut self, ended: Ended) {
        self.ended = None;
        let mut state = self.gate.state();
        let under_way = state.under_way;
        state.gradient.end(&self.begun, ended, under_way, now());
        self.gate.resize(&mut state);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.under_way -= 1;
        let under_way = state.under_way;
        if let Some(hash_map::Entry::Occupied(mut of_peer)) = self.peer.map(|peer| state.of_peers.entry(peer))
        {
            *of_peer.get_mut() -= 1;
            if *of_peer.get() == 0 {
                of_peer.remove();
            }
        }
        if let Some(ended) = self.ended {
            state.gradient.end(&self.begun, ended, under_way, now());
        }
        self.gate.resize(&mut state);
        let permit = self.permit.take();
        if state.permits > state.gradient.limit()
            && let Some(permit) = permit
        {
            permit.forget();
            state.permits -= 1;
        }
    }
}

/// By tokio's clock, which a test can hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(10);

    fn gate(limit: usize, queue: usize) -> Arc<Gate> {
        Gate::new("test", Bounds { min: limit, max: limit, initial: limit }, queue, WAIT)
    }

    impl Ticket {
        fn end(mut self) {
            self.answer(Ended::Answered);
        }
    }

    fn in_at_once(gate: &Arc<Gate>) -> Ticket {
        match gate.enter(None, None) {
            Entry::In(ticket) => ticket,
            _ => panic!("{gate:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_is_let_in_when_another_ends() {
        let gate = gate(1, 1);
        let first = in_at_once(&gate);
        let Entry::Wait(second) = gate.enter(None, None) else { panic!("{gate:?}") };
        assert!(matches!(gate.enter(None, None), Entry::Refused(_)), "the queue is full");
        let second = tokio::spawn(second);
        tokio::task::yield_now().await;
        first.end();
        let ticket = second.await.unwrap().unwrap();
        assert_eq!(gate.state().under_way, 1);
        drop(ticket);
        drop(in_at_once(&gate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_no_longer_than_the_queue_allows() {
        let gate = gate(1, 9);
        let _first = in_at_once(&gate);
        let Entry::Wait(second) = gate.enter(None, None) else { panic!("{gate:?}") };
        let began = now();
        let refusal = second.await.unwrap_err();
        assert_eq!((refusal.under_way, refusal.limit), (1, 1));
        assert!(now().duration_since(began) <= WAIT + Duration::from_millis(1));
        assert_eq!(gate.waiting.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_turn_comes_too_late_is_refused_at_once() {
        let gate = gate(1, 9);
        let usual = in_at_once(&gate);
        tokio::time::advance(Duration::from_millis(6)).await;
        usual.end();
        let _first = in_at_once(&gate);
        assert!(matches!(gate.enter(None, Some(Duration::from_millis(5))), Entry::Refused(_)));
        let Entry::Wait(_second) = gate.enter(None, Some(Duration::from_secs(1))) else { panic!("{gate:?}") };
        assert!(matches!(gate.enter(None, Some(Duration::from_secs(1))), Entry::Refused(_)), "6 + 6 ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_gives_up_leaves_its_place_and_its_turn() {
        let gate = gate(1, 1);
        let first = in_at_once(&gate);
        let Entry::Wait(second) = gate.enter(None, None) else { panic!("{gate:?}") };
        drop(second);
        let Entry::Wait(third) = gate.enter(None, None) else { panic!("{gate:?}") };
        first.end();
        drop(third);
        drop(in_at_once(&gate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_shrinks_is_kept_as_calls_end_and_one_that_grows_at_once() {
        let gate = Gate::new("test", Bounds { min: 1, max: 64, initial: 64 }, 0, WAIT);
        for _ in 0..3 {
            let calm = in_at_once(&gate);
            tokio::time::advance(Duration::from_millis(10)).await;
            calm.end();
        }
        let mut under_way = vec![in_at_once(&gate)];
        // Ever one is left over, so that the gate never forgets.
        for _ in 0..200 {
            while let Entry::In(ticket) = gate.enter(None, None) {
                under_way.push(ticket);
            }
            tokio::time::advance(Duration::from_secs(2)).await;
            for ticket in under_way.drain(1..) {
                ticket.end();
            }
        }
        let limit = gate.state().gradient.limit();
        assert!(limit < 64, "{gate:?}");
        assert_eq!(gate.state().permits, limit);
        assert_eq!(gate.permits.available_permits(), limit - 1);
        drop(under_way);
        drop(in_at_once(&gate));
        assert_eq!(gate.permits.available_permits(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_leaves_places_to_the_others() {
        for (limit, most) in [(1, 1), (4, 4), (5, 4), (10, 8), (100, 80), (1_000, 800)] {
            let gate = gate(limit, 0);
            let of = |last: u8| {
                let peer = Some(IpAddr::from([127, 0, 0, last]));
                std::iter::from_fn(|| match gate.enter(peer, None) {
                    Entry::In(ticket) => Some(ticket),
                    _ => None,
                })
                .collect::<Vec<_>>()
            };
            let greedy = of(1);
            assert_eq!(greedy.len(), most, "of {limit}");
            let modest = of(2);
            assert_eq!(modest.is_empty(), limit == most, "of {limit}");
            drop((greedy, modest));
            assert!(gate.state().of_peers.is_empty());
            assert_eq!(of(1).len(), most, "again, of {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_under_way_until_its_answer_was_taken() {
        let gate = gate(1, 0);
        let mut first = in_at_once(&gate);
        tokio::time::advance(Duration::from_millis(5)).await;
        first.answer(Ended::Answered);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(matches!(gate.enter(None, None), Entry::Refused(_)));
        drop(first);
        assert_eq!(gate.state_now().latency_us, Some(5_000));
        drop(in_at_once(&gate));
    }
}
