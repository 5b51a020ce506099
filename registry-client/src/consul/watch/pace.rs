//! How fast a watch may ask: never in a spin, never in step with others.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;

/// The pace of a watch or of another loop that asks an agent for ever.
#[derive(Clone, Copy, Debug)]
pub(in crate::consul) struct Pace {
    /// How long one blocking query waits at the agent.
    pub(in crate::consul) wait: Duration,
    /// The first backoff after a failure draws from 0 to this.
    pub(in crate::consul) initial_backoff: Duration,
    /// Backoffs grow up to this.
    pub(in crate::consul) max_backoff: Duration,
    /// The pause after a failure that only a person can mend: half of this
    /// to this.
    pub(in crate::consul) slow: Duration,
    /// Every so often one more question is allowed, past a burst of two.
    pub(in crate::consul) refill: Duration,
    /// How often something that cannot block is asked again.
    pub(in crate::consul) poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(25),
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
            slow: Duration::from_secs(30),
            // So that no ten seconds, however they are cut, hold more than twenty.
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

/// Half of `whole` to `whole`, so that a crowd does not come at once.
pub(in crate::consul) fn jittered(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// A token bucket: a burst, then one token per `refill`.
#[derive(Debug)]
pub(in crate::consul) struct Bucket {
    refill: Duration,
    /// How far ahead of its time a token may be taken.
    slack: Duration,
    /// When the next token would be there without a burst.
    due: Instant,
}

impl Bucket {
    pub(in crate::consul) fn new(burst: u32, refill: Duration) -> Self {
        Self { refill, slack: refill * burst.saturating_sub(1), due: Instant::now() }
    }

    /// Takes a token, waiting for one if none is there.
    ///
    /// # Cancel safety
    /// A cancelled wait takes nothing.
    pub(in crate::consul) async fn take(&mut self) {
        if self.due > Instant::now() + self.slack {
            sleep_until(self.due - self.slack).await;
        }
        self.due = self.due.max(Instant::now()) + self.refill;
    }
}

/// A failure that lasts, said when it begins and, should its cause change,
/// again; but no more often than every [`Complaint::PAUSE`].
#[derive(Debug, Default)]
pub(in crate::consul) struct Complaint {
    last: Option<(Instant, String)>,
}

impl Complaint {
    const PAUSE: Duration = Duration::from_secs(30);

    /// Returns whether these words are to be said at this moment.
    pub(in crate::consul) fn is_news(&mut self, words: &str) -> bool {
        let news = match &self.last {
            None => true,
            Some((at, said)) => said != words && at.elapsed() >= Self::PAUSE,
        };
        if news {
            self.last = Some((Instant::now(), words.to_owned()));
        }
        news
    }

    /// It is over; true when anything had been said.
    pub(in crate::consul) fn ends(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_a_burst_and_then_one_token_a_refill() {
        let mut bucket = Bucket::new(2, Duration::from_secs(1));
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
        let mut complaint = Complaint::default();
        assert!(!complaint.ends());
        let heard = ["refused", "refused", "reset"].map(|words| complaint.is_news(words));
        assert_eq!(heard, [true, false, false]);
        tokio::time::sleep(Complaint::PAUSE).await;
        let heard = ["refused", "denied", "refused"].map(|words| complaint.is_news(words));
        assert_eq!(heard, [false, true, false]);
        assert!(complaint.ends() && complaint.is_news("refused"));
    }
}
