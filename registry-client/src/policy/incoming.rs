//! The call that the current task answers, so that the calls it makes in turn
//! end with it and do not multiply its retries.

use std::future::Future;

use tokio::{
    task::futures::TaskLocalFuture,
    time::{Duration, Instant},
};

tokio::task_local! {
    static INCOMING: Incoming;
}

/// What a handler's own calls need to know of the call it answers. Cheap to
/// clone.
///
/// A [`Server`](crate::server::Server) sets it for every handler, the streams
/// it returns included, and a [`Channel`](crate::Channel) looks for it in
/// every call: the call gets no more time than is left, and when its retries
/// are used up, its status says so (`grpc-retry-pushback-ms: -1`), so that a
/// handler which passes that status on keeps its own caller from retrying in
/// turn (Google's SRE book, ch. 22: retry at one layer). A task that the handler spawns is on its own, unless it is
/// [told](Self::scope):
///
/// ```
/// use registry_client::policy::incoming::Incoming;
///
/// # async fn handler() {
/// # async fn look_up() {}
/// let incoming = Incoming::current();
/// let found = tokio::spawn(async move {
///     match incoming {
///         Some(incoming) => incoming.scope(look_up()).await,
///         None => look_up().await,
///     }
/// });
/// # let _ = found;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Incoming {
    deadline: Option<Instant>,
}

impl Incoming {
    /// A call that ends at `deadline`, if at all.
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        Self { deadline }
    }

    /// The call that the current task answers; `None` outside of a handler.
    #[must_use]
    pub fn current() -> Option<Self> {
        INCOMING.try_with(Self::clone).ok()
    }

    /// When it ends; `None` when its caller set no limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long it still has; `None` when its caller set no limit.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// Runs `future` as part of answering this call.
    ///
    /// # Cancel safety
    /// As cancel safe as `future`.
    pub fn scope<F: Future>(&self, future: F) -> TaskLocalFuture<Self, F> {
        INCOMING.scope(self.clone(), future)
    }

    /// Runs `act` as part of answering this call.
    pub(crate) fn sync_scope<T>(&self, act: impl FnOnce() -> T) -> T {
        INCOMING.sync_scope(self.clone(), act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_runs_within_a_call_sees_how_long_it_has() {
        assert!(Incoming::current().is_none());
        let incoming = Incoming::new(Some(Instant::now() + Duration::from_secs(3)));
        let left = incoming.scope(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Incoming::current().unwrap().left()
        });
        assert_eq!(left.await, Some(Duration::from_secs(2)));
        assert_eq!(Incoming::new(None).left(), None);
    }
}
