//! The history of the connection, for tasks that would otherwise wait in vain.

use async_nats::Event;
use tokio::sync::watch;

/// The events of the connection. The client drops events when there are too many,
/// so they only shorten waits that have a timeout. Cheap to clone; clones share
/// the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionEvents {
    counts: watch::Sender<ConnectionCounts>,
}

/// The numbers of connects and disconnects so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionCounts {
    connects: u64,
    disconnects: u64,
}

impl ConnectionEvents {
    /// Records an event of the client.
    pub(crate) fn record(&self, event: &Event) {
        match event {
            Event::Connected => self.counts.send_modify(|counts| counts.connects += 1),
            Event::Disconnected | Event::Closed => self.counts.send_modify(|counts| counts.disconnects += 1),
            _ => {}
        }
    }

    /// The current counts, to detect later events.
    pub(crate) fn snapshot(&self) -> ConnectionCounts {
        *self.counts.borrow()
    }

    /// Waits until a connection was lost after `snapshot`, even if there is a new
    /// one by now: requests over the lost one get no response.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn lost_since(&self, snapshot: ConnectionCounts) {
        self.wait_for(|counts| counts.disconnects > snapshot.disconnects).await;
    }

    /// Waits until a connection was established after `snapshot`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn connected_since(&self, snapshot: ConnectionCounts) {
        self.wait_for(|counts| counts.connects > snapshot.connects).await;
    }

    async fn wait_for(&self, condition: impl Fn(&ConnectionCounts) -> bool) {
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = self.counts.subscribe().wait_for(|counts| condition(counts)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_lost_and_re_established_counts_as_both() {
        let connection = ConnectionEvents::default();
        connection.record(&Event::Connected);
        let then = connection.snapshot();
        assert_eq!(connection.lost_since(then).now_or_never(), None);
        assert_eq!(connection.connected_since(then).now_or_never(), None);
        connection.record(&Event::LameDuckMode);
        connection.record(&Event::Disconnected);
        connection.record(&Event::Connected);
        assert_eq!(connection.lost_since(then).now_or_never(), Some(()));
        assert_eq!(connection.connected_since(then).now_or_never(), Some(()));
        assert_eq!(connection.lost_since(connection.snapshot()).now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_connection_ends_when_it_is_established() {
        let (connection, began) = (ConnectionEvents::default(), Instant::now());
        let then = connection.snapshot();
        let reconnect = async {
            sleep(Duration::from_millis(300)).await;
            connection.record(&Event::Disconnected);
            sleep(Duration::from_millis(300)).await;
            connection.record(&Event::Connected);
        };
        tokio::join!(connection.connected_since(then), reconnect);
        assert_eq!(began.elapsed(), Duration::from_millis(600));
        // It was established before the snapshot.
        let waited = timeout(Duration::from_secs(2), connection.connected_since(connection.snapshot())).await;
        assert!(waited.is_err());
    }
}
