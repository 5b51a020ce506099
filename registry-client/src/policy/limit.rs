//! Client-side limits on concurrent calls, to a service or to one instance.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::select_all;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The settings of a concurrency limit and its queue. Off unless configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitConfig {
    /// The most concurrent calls; 1 or more.
    pub max: u32,
    /// The most calls that wait in the queue; as many as `max` unless set. With
    /// 0 none waits.
    pub queue: u32,
    /// The longest wait of a call; 1 s unless set. The deadline of the call
    /// bounds it too.
    pub wait: Duration,
}

impl LimitConfig {
    /// At most `max` concurrent calls, as many in the queue, for at most 1 s.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, queue: max, wait: Duration::from_secs(1) }
    }
}

/// The reason for which a call was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitExceeded {
    /// The queue is full.
    #[error("{of} has {max} calls under way and {queue} waiting, the most that may")]
    QueueFull {
        /// The name of what is limited.
        of: Arc<str>,
        /// The most concurrent calls.
        max: u32,
        /// The most waiting calls.
        queue: u32,
    },
    /// No call ended within the longest wait.
    #[error("{of} has {max} calls under way, the most that may, and none ended within {wait:?}")]
    WaitTimeout {
        /// The name of what is limited.
        of: Arc<str>,
        /// The most concurrent calls.
        max: u32,
        /// The time that the call waited.
        wait: Duration,
    },
}

/// A limit on concurrent calls with a first-come, first-served queue. Cheap to
/// clone; clones share it.
#[derive(Clone)]
pub struct CallLimit {
    shared: Arc<Shared>,
}

struct Shared {
    of: Arc<str>,
    config: LimitConfig,
    places: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A permit for one call; dropping it admits the next.
#[derive(Debug)]
#[must_use = "a call is counted for as long as it holds its permit"]
pub struct CallPermit(#[allow(dead_code, reason = "its drop is its use")] OwnedSemaphorePermit);

impl CallLimit {
    /// A limit for `of`, such as `cart-service`, which errors name.
    #[must_use]
    pub fn new(of: &str, config: LimitConfig) -> Self {
        let places = usize::try_from(config.max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(places));
        Self { shared: Arc::new(Shared { of: of.into(), config, places, waiting: AtomicU32::new(0) }) }
    }

    /// A permit, if one is available and no call waits for it. Never blocks.
    pub fn try_enter(&self) -> Option<CallPermit> {
        self.shared.places.clone().try_acquire_owned().ok().map(CallPermit)
    }

    /// Returns whether no permit is available.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.places.available_permits() == 0
    }

    /// The number of waiting calls.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.shared.waiting.load(Relaxed)
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// When the queue is full, or the wait takes too long.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future leaves the queue.
    pub async fn enter(self) -> Result<CallPermit, LimitExceeded> {
        enter_any(vec![self]).await.map(|(_, permit)| permit)
    }
}

/// The first permit of any of `limits`, with the limit's index; the call waits
/// in the first queue that is not full. `limits` is not empty.
///
/// # Errors
/// When every queue is full, or the wait takes too long.
///
/// # Cancel safety
/// Cancel safe: dropping the future leaves every queue.
pub(crate) async fn enter_any(limits: Vec<CallLimit>) -> Result<(usize, CallPermit), LimitExceeded> {
    let entered = limits.iter().enumerate().find_map(|(index, limit)| Some((index, limit.try_enter()?)));
    if let Some(entered) = entered {
        return Ok(entered);
    }
    let Some(first) = limits.first() else { return std::future::pending().await };
    let Some((shared, _waiting)) =
        limits.iter().find_map(|limit| Some((&*limit.shared, QueueSlot::begin(&limit.shared)?)))
    else {
        let Shared { of, config: LimitConfig { max, queue, .. }, .. } = &*first.shared;
        return Err(LimitExceeded::QueueFull { of: of.clone(), max: *max, queue: *queue });
    };
    let LimitConfig { max, wait, .. } = shared.config;
    let places = limits.iter().map(|limit| Box::pin(limit.shared.places.clone().acquire_owned()));
    match timeout(wait, select_all(places)).await {
        Ok((Ok(permit), index, _)) => Ok((index, CallPermit(permit))),
        // The semaphore is never closed, so this is a timeout.
        _ => Err(LimitExceeded::WaitTimeout { of: shared.of.clone(), max, wait }),
    }
}

impl fmt::Debug for CallLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { of, config, places, .. } = &*self.shared;
        let (free, waiting) = (places.available_permits(), self.waiting());
        f.debug_struct("Limit")
            .field("of", of)
            .field("config", config)
            .field("free", &free)
            .field("waiting", &waiting)
            .finish()
    }
}

/// A place in the queue, counted until it is dropped.
struct QueueSlot<'a>(&'a Shared);

impl<'a> QueueSlot<'a> {
    /// `None` when the queue is full.
    fn begin(shared: &'a Shared) -> Option<Self> {
        let one_more = |waiting: u32| (waiting < shared.config.queue).then(|| waiting + 1);
        shared.waiting.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Self(shared))
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    fn limit(max: u32, queue: u32) -> CallLimit {
        CallLimit::new("cart-service", LimitConfig { queue, wait: WAIT, ..LimitConfig::new(max) })
    }

    /// Lets others run until as many wait.
    async fn until_waiting(limit: &CallLimit, waiting: u32) {
        while limit.waiting() != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_allowed_are_under_way_and_the_next_takes_a_freed_place() {
        let limit = limit(2, 1);
        let first = limit.try_enter().unwrap();
        let _second = limit.clone().enter().await.unwrap();
        assert!(limit.is_full() && limit.try_enter().is_none());
        let third = tokio::spawn(limit.clone().enter());
        until_waiting(&limit, 1).await;
        drop(first);
        let third = third.await.unwrap().unwrap();
        assert_eq!((limit.waiting(), limit.is_full()), (0, true));
        drop(third);
        assert!(!limit.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_waits_longer_than_allowed() {
        let limit = limit(1, 1);
        let _first = limit.try_enter().unwrap();
        let begun = Instant::now();
        let said = limit.clone().enter().await.unwrap_err().to_string();
        assert_eq!(begun.elapsed(), WAIT);
        assert_eq!(
            said,
            "cart-service has 1 calls under way, the most that may, and none ended within 100ms"
        );
        assert_eq!(limit.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_allowed() {
        let limit = limit(1, 1);
        let _first = limit.try_enter().unwrap();
        let second = tokio::spawn(limit.clone().enter());
        until_waiting(&limit, 1).await;
        let said = limit.clone().enter().await.unwrap_err().to_string();
        assert_eq!(said, "cart-service has 1 calls under way and 1 waiting, the most that may");
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(limit.waiting(), 0, "a cancelled call leaves the queue");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_wait_is_served_first() {
        let limit = limit(1, 2);
        let first = limit.try_enter().unwrap();
        let second = tokio::spawn(limit.clone().enter());
        until_waiting(&limit, 1).await;
        let third = tokio::spawn(limit.clone().enter());
        until_waiting(&limit, 2).await;
        drop(first);
        assert!(limit.try_enter().is_none(), "the freed place is the second's");
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        drop(second);
        drop(third.await.unwrap().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_limits_the_first_with_a_place_is_entered_and_each_queue_counts() {
        let limits = vec![limit(1, 1), limit(1, 1), limit(1, 1)];
        let mut held: Vec<_> = limits.iter().map(|limit| limit.try_enter().unwrap()).collect();
        let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(enter_any(limits.clone()))).collect();
        until_waiting(&limits[2], 1).await;
        let refused = enter_any(limits.clone()).await.unwrap_err();
        assert!(matches!(refused, LimitExceeded::QueueFull { .. }), "one waits in each queue");
        drop(held.remove(1));
        let mut entered = Vec::new();
        for waiting in waiting {
            // One place is passed on from call to call.
            entered.push(waiting.await.unwrap().unwrap().0);
        }
        assert_eq!(entered, [1, 1, 1]);
        assert!(limits.iter().all(|limit| limit.waiting() == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_the_answer_comes_at_once() {
        let limit = limit(1, 0);
        let _first = limit.try_enter().unwrap();
        let begun = Instant::now();
        assert!(matches!(limit.enter().await, Err(LimitExceeded::QueueFull { queue: 0, .. })));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
