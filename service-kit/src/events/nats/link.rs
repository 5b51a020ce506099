//! What becomes of the connection, for those who would otherwise wait in vain.

use async_nats::Event;
use tokio::sync::watch;

/// Tells when the connection was lost and when it was made. The client drops
/// such news when there is too much of it, so they cut waits short and replace
/// none. Cheap to clone; clones share what they hear.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    seen: watch::Sender<Moment>,
}

/// How often the connection had been made and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    made: u64,
    lost: u64,
}

impl Link {
    /// Takes note of what the client tells of itself.
    pub(super) fn hear(&self, event: &Event) {
        match event {
            Event::Connected => self.seen.send_modify(|seen| seen.made += 1),
            Event::Disconnected | Event::Closed => self.seen.send_modify(|seen| seen.lost += 1),
            _ => {}
        }
    }

    /// The present, to tell what comes after it.
    pub(super) fn now(&self) -> Moment {
        *self.seen.borrow()
    }

    /// Until a connection has been lost since `then`, also when there is
    /// another by now: what was asked over it is not answered any more.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn lost_since(&self, then: Moment) {
        self.until(|seen| seen.lost > then.lost).await;
    }

    /// Until a connection has been made since `then`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn made_since(&self, then: Moment) {
        self.until(|seen| seen.made > then.made).await;
    }

    async fn until(&self, come: impl Fn(&Moment) -> bool) {
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = self.seen.subscribe().wait_for(|seen| come(seen)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_lost_and_made_anew_is_both() {
        let link = Link::default();
        link.hear(&Event::Connected);
        let then = link.now();
        assert_eq!(link.lost_since(then).now_or_never(), None);
        assert_eq!(link.made_since(then).now_or_never(), None);
        link.hear(&Event::LameDuckMode);
        link.hear(&Event::Disconnected);
        link.hear(&Event::Connected);
        assert_eq!(link.lost_since(then).now_or_never(), Some(()));
        assert_eq!(link.made_since(then).now_or_never(), Some(()));
        assert_eq!(link.lost_since(link.now()).now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_connection_goes_on_when_it_is_made() {
        let (link, began) = (Link::default(), Instant::now());
        let then = link.now();
        let returns = async {
            sleep(Duration::from_millis(300)).await;
            link.hear(&Event::Disconnected);
            sleep(Duration::from_millis(300)).await;
            link.hear(&Event::Connected);
        };
        tokio::join!(link.made_since(then), returns);
        assert_eq!(began.elapsed(), Duration::from_millis(600));
        // Made before, so not since.
        let waited = timeout(Duration::from_secs(2), link.made_since(link.now())).await;
        assert!(waited.is_err());
    }
}
