//! Fair scheduling of peers' tasks, so that a peer with many of them does not
//! starve the others.
//!
//! The runtime polls tasks in the order in which they became ready: a task
//! behind 400 of another peer waits for all of them. Of a peer with many tasks,
//! and of tasks that always use up their budget, only few are ready at a time;
//! the others wait in a queue of their own, and continue when the runtime has
//! polled what was ready meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{coop::has_budget_remaining, yield_now},
};
use tokio_util::sync::PollSemaphore;

use super::{PeerConnection, PeerUsage, Resource};

/// The number of connections and streams up to which a peer's tasks do not take
/// turns: so few cause little delay, and taking turns costs a microsecond or
/// two.
const MAX_UNSCHEDULED: usize = 64;

pin_project! {
    /// A task that takes turns with its peer's others where they are many.
    pub(in crate::server) struct InTurn<F> {
        #[pin]
        task: F,
        connection: Arc<PeerConnection>,
        // True if the last poll used up the task's budget.
        floods: bool,
        // Set while the task waits for its turn.
        turn: Option<PollSemaphore>,
    }
}

impl<F> InTurn<F> {
    pub(super) fn new(task: F, connection: Arc<PeerConnection>) -> Self {
        Self { task, connection, floods: false, turn: None }
    }
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let peer = this.connection.peer();
        let mut permit = None;
        if this.turn.is_some() || peer.takes_turns(*this.floods) {
            let turn = this.turn.get_or_insert_with(|| PollSemaphore::new(peer.turns.clone()));
            permit = ready!(turn.poll_acquire(cx));
            *this.turn = None;
        }
        let polled = this.task.poll(cx);
        *this.floods = !has_budget_remaining();
        if let Some(permit) = permit {
            peer.end_turn(permit);
        }
        polled
    }
}

impl PeerUsage {
    /// Returns whether a task takes turns: the peer has many, or this one
    /// floods, and there is another peer.
    fn takes_turns(&self, floods: bool) -> bool {
        let held = |resource| self.usage.of(resource).load(SeqCst);
        let connections = held(Resource::Connections);
        (floods || connections + held(Resource::Streams) > MAX_UNSCHEDULED)
            && connections < self.peers.held(Resource::Connections)
    }

    /// Ends a turn; the next begins when every task that is ready now was
    /// polled.
    fn end_turn(self: &Arc<Self>, permit: OwnedSemaphorePermit) {
        permit.forget();
        if self.ended_turns.fetch_add(1, SeqCst) == 0 {
            let peer = self.clone();
            tokio::spawn(async move {
                yield_now().await;
                peer.turns.add_permits(peer.ended_turns.swap(0, SeqCst));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::atomic::AtomicUsize};

    use tokio::sync::Notify;

    use super::{
        super::{Peers, ResourceLimits},
        *,
    };

    #[tokio::test]
    async fn few_of_a_crowd_are_ready_before_another_peer_has_its_turn() {
        const TASKS: usize = 400;
        let peers = Peers::new(ResourceLimits { connections: 1_000, streams: 1_000, bytes: 0 });
        let connect = |last: u8| peers.connect(IpAddr::from([127, 0, 0, last])).unwrap();
        let crowd: Vec<_> = (0..=MAX_UNSCHEDULED).map(|_| connect(66)).collect();
        let (other, _share) = connect(1);
        let (start, begun, done) = (Arc::new(Notify::new()), AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((begun, done));
        let task = || {
            let (start, counts) = (start.clone(), counts.clone());
            tokio::spawn(crowd[0].0.in_turn(async move {
                counts.0.fetch_add(1, SeqCst);
                start.notified().await;
                counts.1.fetch_add(1, SeqCst);
            }))
        };
        let tasks: Vec<_> = (0..TASKS).map(|_| task()).collect();
        while counts.0.load(SeqCst) < TASKS {
            yield_now().await;
        }
        start.notify_waiters();
        let before = counts.clone();
        let seen = tokio::spawn(other.in_turn(async move { before.1.load(SeqCst) })).await.unwrap();
        assert!(seen <= 2 * peers.cores, "{seen} of {TASKS}");
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(counts.1.load(SeqCst), TASKS);
    }
}
