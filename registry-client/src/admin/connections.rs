//! The open connections of the admin endpoint, and which of them makes room.

use std::{
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// The most connections at once.
const MAX_CONNECTIONS: usize = 32;
/// The most connections at once from one address.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 16;

/// The time since which a connection waits for its peer: for a request, or for
/// the response to be read. `None` while a request is answered.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Option<Instant>>);

impl Activity {
    /// Runs `answer`, during which the connection is not closed to make room.
    pub(super) async fn answering<T>(&self, answer: impl Future<Output = T>) -> T {
        self.set(None);
        let answer = answer.await;
        self.set(Some(Instant::now()));
        answer
    }

    fn set(&self, waits_since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = waits_since;
    }

    fn waits_since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open connections; dropping this closes them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    open: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl Connections {
    /// Serves a connection from `peer`. When there are too many, the one that
    /// has waited longest for its peer is closed; when all are busy, the new
    /// one.
    pub(super) fn spawn<F>(&mut self, peer: IpAddr, serve: impl FnOnce(Arc<Activity>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
        let from_peer = self.open.iter().filter(|connection| connection.peer == peer).count();
        let has_room = if from_peer >= MAX_CONNECTIONS_PER_ADDRESS {
            self.close_longest_waiting(|connection| connection.peer == peer)
        } else {
            self.open.len() < MAX_CONNECTIONS || self.close_longest_waiting(|_| true)
        };
        if has_room {
            let activity = Arc::new(Activity(Mutex::new(Some(Instant::now()))));
            let task = self.tasks.spawn(serve(Arc::clone(&activity)));
            self.open.push(Connection { peer, activity, task });
        }
    }

    /// Returns whether there was one to close.
    fn close_longest_waiting(&mut self, of: impl Fn(&Connection) -> bool) -> bool {
        let waiting = self.open.iter().enumerate().filter(|(_, connection)| of(connection));
        let since = waiting.filter_map(|(at, connection)| Some((connection.activity.waits_since()?, at)));
        let Some((_, at)) = since.min() else { return false };
        self.open.swap_remove(at).task.abort();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    impl Connections {
        fn of(&self, last: u8) -> usize {
            self.open.iter().filter(|connection| connection.peer == address(last)).count()
        }

        fn idle(&mut self, last: u8) {
            self.spawn(address(last), |_| pending());
        }

        fn busy(&mut self, last: u8) {
            self.spawn(address(last), |activity| async move { activity.answering(pending()).await });
        }
    }

    #[tokio::test]
    async fn idle_connections_make_room_and_busy_ones_do_not() {
        let mut open = Connections::default();
        for _ in 0..100 {
            open.idle(1);
        }
        assert_eq!(open.of(1), MAX_CONNECTIONS_PER_ADDRESS);
        for last in 2..40 {
            open.idle(last);
        }
        assert_eq!((open.of(1), open.open.len()), (0, MAX_CONNECTIONS), "the oldest are closed");
        for last in 101..133 {
            open.busy(last);
        }
        while open.open.iter().any(|connection| connection.activity.waits_since().is_some()) {
            tokio::task::yield_now().await;
        }
        open.idle(1);
        open.busy(101);
        assert_eq!((open.of(1), open.of(101), open.open.len()), (0, 1, MAX_CONNECTIONS));
    }
}
