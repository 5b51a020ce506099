//! The open connections of the admin endpoint, and their eviction.

use std::{
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// The most open connections.
const MAX_CONNECTIONS: usize = 32;
/// The most open connections from one address.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 16;

/// The time since which a connection waits for its peer: for a request, or for
/// the response to be read. `None` while a request is handled.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Option<Instant>>);

impl Activity {
    /// Runs `response`, during which the connection is not closed to make room.
    pub(super) async fn run_busy<T>(&self, response: impl Future<Output = T>) -> T {
        self.set(None);
        let response = response.await;
        self.set(Some(Instant::now()));
        response
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
pub(super) struct OpenConnections {
    tasks: JoinSet<()>,
    open: Vec<OpenConnection>,
}

#[derive(Debug)]
struct OpenConnection {
    peer: IpAddr,
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl OpenConnections {
    /// Serves a connection from `peer`. When there are too many, the one that
    /// has waited longest for its peer is closed; if all are busy, the new one.
    pub(super) fn spawn<F>(&mut self, peer: IpAddr, serve: impl FnOnce(Arc<Activity>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
        let from_peer = self.open.iter().filter(|connection| connection.peer == peer).count();
        let is_accepted = if from_peer >= MAX_CONNECTIONS_PER_ADDRESS {
            self.close_longest_waiting(|connection| connection.peer == peer)
        } else {
            self.open.len() < MAX_CONNECTIONS || self.close_longest_waiting(|_| true)
        };
        if is_accepted {
            let activity = Arc::new(Activity(Mutex::new(Some(Instant::now()))));
            let task = self.tasks.spawn(serve(Arc::clone(&activity)));
            self.open.push(OpenConnection { peer, activity, task });
        }
    }

    /// Closes the connection that has waited longest; returns whether there was
    /// one.
    fn close_longest_waiting(&mut self, of: impl Fn(&OpenConnection) -> bool) -> bool {
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

    impl OpenConnections {
        fn of(&self, last: u8) -> usize {
            self.open.iter().filter(|connection| connection.peer == address(last)).count()
        }

        fn idle(&mut self, last: u8) {
            self.spawn(address(last), |_| pending());
        }

        fn busy(&mut self, last: u8) {
            self.spawn(address(last), |activity| async move { activity.run_busy(pending()).await });
        }
    }

    #[tokio::test]
    async fn idle_connections_make_room_and_busy_ones_do_not() {
        let mut open = OpenConnections::default();
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
