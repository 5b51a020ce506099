//! The open connections: evicting one for a new one, and closing slow ones.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// The limit on open connections; most systems give a process 1,024 open files.
const MAX_CONNECTIONS: usize = 600;

/// The limit on connections of one client address; Consul's own. A blocked query holds one.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 200;

/// The limit on concurrent rejections; further connections are closed without a response.
const MAX_REJECTIONS: usize = 20;

/// The limit on receiving the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a connection, with the time of its start.
#[derive(Debug, Clone, Copy)]
enum ConnectionPhase {
    /// The head of a request is expected: the connection is new, or the head has begun to arrive.
    Head(Instant),
    /// The client has not started another request.
    Idle(Instant),
    /// A request is served, or a blocking query waits.
    Serving,
}

/// The current phase of a connection. Cheap to update from its task.
#[derive(Debug)]
pub(super) struct ConnectionActivity(Mutex<ConnectionPhase>);

impl ConnectionActivity {
    /// Records bytes from the client.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (ConnectionPhase::Idle(_), false) = (*phase, bytes.is_empty()) {
            *phase = ConnectionPhase::Head(Instant::now());
        }
    }

    /// Runs `response`; the connection is not closed meanwhile.
    pub(super) async fn run_request<T>(&self, response: impl Future<Output = T>) -> T {
        self.set(ConnectionPhase::Serving);
        let response = response.await;
        self.set(ConnectionPhase::Idle(Instant::now()));
        response
    }

    fn set(&self, phase: ConnectionPhase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn phase(&self) -> ConnectionPhase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open connections; dropping this closes them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    open: Vec<Connection>,
    rejections: JoinSet<()>,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    activity: Arc<ConnectionActivity>,
    task: AbortHandle,
}

impl Connections {
    /// Returns whether a connection from `peer` can be served. At the limit, the connection that has waited longest for
    /// its client is closed; those that serve a request are not.
    pub(super) fn make_room(&mut self, peer: IpAddr) -> bool {
        self.remove_closed();
        let from_peer = self.open.iter().filter(|connection| connection.peer == peer).count();
        if from_peer >= MAX_CONNECTIONS_PER_ADDRESS {
            return self.close_longest_waiting(|connection| connection.peer == peer);
        }
        self.open.len() < MAX_CONNECTIONS || self.close_longest_waiting(|_| true)
    }

    /// Serves a connection for which there is room.
    pub(super) fn spawn<F>(&mut self, peer: IpAddr, serve: impl FnOnce(Arc<ConnectionActivity>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let activity = Arc::new(ConnectionActivity(Mutex::new(ConnectionPhase::Head(Instant::now()))));
        let task = self.tasks.spawn(serve(Arc::clone(&activity)));
        self.open.push(Connection { peer, activity, task });
    }

    /// Rejects a connection for which there is no room.
    pub(super) fn spawn_rejection(&mut self, reject: impl Future<Output = ()> + Send + 'static) {
        while self.rejections.try_join_next().is_some() {}
        if self.rejections.len() < MAX_REJECTIONS {
            self.rejections.spawn(reject);
        }
    }

    /// Closes the connections whose client takes too long to send the head of a request.
    pub(super) fn close_late(&mut self) {
        self.remove_closed();
        for connection in &self.open {
            if let ConnectionPhase::Head(since) = connection.activity.phase()
                && since.elapsed() >= HEAD_TIMEOUT
            {
                connection.task.abort();
            }
        }
    }

    fn remove_closed(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
    }

    /// Closes the matching connection that has waited longest; returns false if
    /// none waits.
    fn close_longest_waiting(&mut self, matches: impl Fn(&Connection) -> bool) -> bool {
        let candidates = self.open.iter().enumerate().filter(|(_, connection)| matches(connection));
        let waiting = candidates.filter_map(|(at, connection)| match connection.activity.phase() {
            ConnectionPhase::Head(since) | ConnectionPhase::Idle(since) => Some((since, at)),
            ConnectionPhase::Serving => None,
        });
        let Some((_, at)) = waiting.min() else { return false };
        self.open.swap_remove(at).task.abort();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    impl Connections {
        fn open_from(&mut self, address: [u8; 4], busy: bool) -> bool {
            let room = self.make_room(address.into());
            if room {
                self.spawn(address.into(), |activity| async move {
                    if busy {
                        activity.run_request(pending::<()>()).await;
                    }
                    pending::<()>().await;
                });
            }
            room
        }
    }

    #[tokio::test]
    async fn idle_connections_make_room_and_blocked_queries_do_not() {
        let mut open = Connections::default();
        for host in 1..=10 {
            for _ in 0..300 {
                assert!(open.open_from([127, 0, 0, host], false));
            }
        }
        assert_eq!(open.open.len(), MAX_CONNECTIONS);
        for host in 11..=13 {
            for _ in 0..200 {
                assert!(open.open_from([127, 0, 0, host], true));
            }
            let is_busy = |open: &&Connection| matches!(open.activity.phase(), ConnectionPhase::Serving);
            while open.open.iter().filter(is_busy).count() < (usize::from(host) - 10) * 200 {
                tokio::task::yield_now().await;
            }
            assert!(!open.open_from([127, 0, 0, host], false), "the address has its share");
        }
        assert!(!open.open_from([127, 0, 0, 1], false), "all are busy");
        assert_eq!(open.open.len(), MAX_CONNECTIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_takes_too_long_closes_the_connection_and_idling_does_not() {
        let mut open = Connections::default();
        assert!(open.open_from([127, 0, 0, 1], false));
        assert!(open.open_from([127, 0, 0, 2], false));
        let filtered = Arc::clone(&open.open[1].activity);
        filtered.run_request(async {}).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        open.close_late();
        tokio::task::yield_now().await;
        open.remove_closed();
        assert_eq!(open.open.iter().map(|open| open.peer.to_string()).collect::<Vec<_>>(), ["127.0.0.2"]);
        filtered.received(b"");
        filtered.received(b"G");
        tokio::time::sleep(Duration::from_secs(3)).await;
        filtered.received(b"E");
        open.close_late();
        tokio::time::sleep(Duration::from_secs(2)).await;
        open.close_late();
        tokio::task::yield_now().await;
        open.remove_closed();
        assert!(open.open.is_empty(), "a head that trickles is late too");
    }
}
