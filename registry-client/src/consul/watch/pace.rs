//! The rate of a watch's queries: never a busy loop, never in step with others.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;

/// The rates of a loop that queries an agent.
#[derive(Clone, Copy, Debug)]
pub(in crate::consul) struct Pace {
    /// The wait of a blocking query at the agent.
    pub(in crate::consul) wait: Duration,
    /// The longest backoff after the first failure.
    pub(in crate::consul) initial_backoff: Duration,
    /// The longest backoff.
    pub(in crate::consul) max_backoff: Duration,
    /// The delay after a failure that only an operator can fix: half of this to
    /// this.
    pub(in crate::consul) permanent_failure_delay: Duration,
    /// The interval at which a query is allowed, beyond a burst of two.
    pub(in crate::consul) refill: Duration,
    /// The interval of polling a resource that cannot block.
    pub(in crate::consul) poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(25),
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
            permanent_failure_delay: Duration::from_secs(30),
            // No ten seconds have more than twenty queries.
            refill: Duration::from_millis(525),
            poll: Duration::from_secs(5),
        }
    }
}

impl Pace {
    pub(in crate::consul) fn backoff(&self) -> Backoff {
        Backoff::full_jitter(self.initial_backoff, self.max_backoff)
    }
}

/// A random delay of half of `whole` to `whole`, which spreads clients.
pub(in crate::consul) fn jittered(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// A token bucket: a burst, then one token per `refill`.
#[derive(Debug)]
pub(in crate::consul) struct TokenBucket {
    refill: Duration,
    /// The time by which a token may be taken early.
    slack: Duration,
    /// The time of the next token without a burst.
    next_token: Instant,
}

impl TokenBucket {
    pub(in crate::consul) fn new(burst: u32, refill: Duration) -> Self {
        Self { refill, slack: refill * burst.saturating_sub(1), next_token: Instant::now() }
    }

    /// Takes a token, and waits for one if need be.
    ///
    /// # Cancel safety
    /// A cancelled wait takes nothing.
    pub(in crate::consul) async fn take(&mut self) {
        if self.next_token > Instant::now() + self.slack {
            sleep_until(self.next_token - self.slack).await;
        }
        self.next_token = self.next_token.max(Instant::now()) + self.refill;
    }
}

/// The log of a lasting failure: a line when it begins and when its cause
/// changes, at most every [`FailureLog::LOG_INTERVAL`].
#[derive(Debug, Default)]
pub(in crate::consul) struct FailureLog {
    last: Option<(Instant, String)>,
}

impl FailureLog {
    const LOG_INTERVAL: Duration = Duration::from_secs(30);

    /// Returns whether this text is to be logged now.
    pub(in crate::consul) fn should_log(&mut self, words: &str) -> bool {
        let should_log = match &self.last {
            None => true,
            Some((at, logged)) => logged != words && at.elapsed() >= Self::LOG_INTERVAL,
        };
        if should_log {
            self.last = Some((Instant::now(), words.to_owned()));
        }
        should_log
    }

    /// Ends the failure; returns whether it was logged.
    pub(in crate::consul) fn clear(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_a_burst_and_then_one_token_a_refill() {
        let mut bucket = TokenBucket::new(2, Duration::from_secs(1));
        let start = Instant::now();
        let mut taken = Vec::new();
        for _ in 0..5 {
            bucket.take().await;
            taken.push(start.elapsed().as_secs());
        }
        assert_eq!(taken, [0, 0, 1, 2, 3]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..3 {
            bucket.take().await;
        }
        assert_eq!(start.elapsed().as_secs(), 1, "no more than the burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_complaint_is_made_once_and_a_changed_one_seldom() {
        let mut complaint = FailureLog::default();
        assert!(!complaint.clear());
        let received = ["refused", "refused", "reset"].map(|words| complaint.should_log(words));
        assert_eq!(received, [true, false, false]);
        tokio::time::sleep(FailureLog::LOG_INTERVAL).await;
        let received = ["refused", "denied", "refused"].map(|words| complaint.should_log(words));
        assert_eq!(received, [false, true, false]);
        assert!(complaint.clear() && complaint.should_log("refused"));
    }
}
