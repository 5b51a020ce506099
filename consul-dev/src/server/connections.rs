//! The open connections, which of them makes room for a new one, and which is closed for being slow.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How many connections all clients together may hold; most systems give a process 1,024 open files.
const MAX_CONNECTIONS: usize = 600;

/// How many connections one client address may hold; Consul's own. A blocked query holds one.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 200;

/// How many connections are being refused at once; further ones are closed without an answer.
const MAX_REFUSALS: usize = 20;

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a connection, and since when.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The head of a request is expected: the connection is new, or the head has begun to arrive.
    Head(Instant),
    /// The client has not begun another request.
    Idle(Instant),
    /// A request is answered, or a blocking query waits.
    Answering,
}

/// What a connection is doing. Cheap to update from its task.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Phase>);

impl Activity {
    /// Takes note of bytes from the client.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Phase::Idle(_), false) = (*phase, bytes.is_empty()) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Runs `answer`, during which the connection is not closed.
    pub(super) async fn answering<T>(&self, answer: impl Future<Output = T>) -> T {
        self.set(Phase::Answering);
        let answer = answer.await;
        self.set(Phase::Idle(Instant::now()));
        answer
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn phase(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open connections; dropping this closes them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    open: Vec<Connection>,
    refusals: JoinSet<()>,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl Connections {
    /// Whether a connection from `peer` can be served. When there are too many, the one that has waited longest for its
    /// client is closed for it; those that answer are not.
    pub(super) fn make_room(&mut self, peer: IpAddr) -> bool {
        self.forget_closed();
        let from_peer = self.open.iter().filter(|connection| connection.peer == peer).count();
        if from_peer >= MAX_CONNECTIONS_PER_ADDRESS {
            return self.close_longest_waiting(|connection| connection.peer == peer);
        }
        self.open.len() < MAX_CONNECTIONS || self.close_longest_waiting(|_| true)
    }

    /// Serves a connection for which there is room.
    pub(super) fn spawn<F>(&mut self, peer: IpAddr, serve: impl FnOnce(Arc<Activity>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let activity = Arc::new(Activity(Mutex::new(Phase::Head(Instant::now()))));
        let task = self.tasks.spawn(serve(Arc::clone(&activity)));
        self.open.push(Connection { peer, activity, task });
    }

    /// Answers a connection for which there is no room.
    pub(super) fn spawn_refusal(&mut self, refuse: impl Future<Output = ()> + Send + 'static) {
        while self.refusals.try_join_next().is_some() {}
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.spawn(refuse);
        }
    }

    /// Closes the connections whose client takes too long to send the head of a request.
    pub(super) fn close_late(&mut self) {
        self.forget_closed();
        for connection in &self.open {
            if let Phase::Head(since) = connection.activity.phase()
                && since.elapsed() >= HEAD_TIMEOUT
            {
                connection.task.abort();
            }
        }
    }

    fn forget_closed(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
    }

    /// Returns whether there was one to close.
    fn close_longest_waiting(&mut self, of: impl Fn(&Connection) -> bool) -> bool {
        let among = self.open.iter().enumerate().filter(|(_, connection)| of(connection));
        let waiting = among.filter_map(|(at, connection)| match connection.activity.phase() {
            Phase::Head(since) | Phase::Idle(since) => Some((since, at)),
            Phase::Answering => None,
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
                        activity.answering(pending::<()>()).await;
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
            let is_busy = |open: &&Connection| matches!(open.activity.phase(), Phase::Answering);
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
        let kept = Arc::clone(&open.open[1].activity);
        kept.answering(async {}).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        open.close_late();
        tokio::task::yield_now().await;
        open.forget_closed();
        assert_eq!(open.open.iter().map(|open| open.peer.to_string()).collect::<Vec<_>>(), ["127.0.0.2"]);
        kept.received(b"");
        kept.received(b"G");
        tokio::time::sleep(Duration::from_secs(3)).await;
        kept.received(b"E");
        open.close_late();
        tokio::time::sleep(Duration::from_secs(2)).await;
        open.close_late();
        tokio::task::yield_now().await;
        open.forget_closed();
        assert!(open.open.is_empty(), "a head that trickles is late too");
    }
}
