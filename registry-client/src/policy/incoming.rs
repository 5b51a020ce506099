//! The call that the current task serves, so that nested calls share its
//! deadline and do not multiply its retries.

use std::future::Future;

use tokio::{
    task::futures::TaskLocalFuture,
    time::{Duration, Instant},
};

tokio::task_local! {
    static INCOMING: Incoming;
}

/// The call that a handler serves, for the calls that the handler makes. Cheap
/// to clone.
///
/// A [`Server`](crate::server::Server) sets it for every handler, the streams
/// it returns included, and a [`Channel`](crate::Channel) reads it for every
/// call: the call gets no more time than is left, and when its retries are used
/// up, its status has `grpc-retry-pushback-ms: -1`, so that a handler which
/// passes the status on keeps its own caller from retrying too (Google's SRE
/// book, ch. 22: retry at one layer). A task that the handler spawns does not
/// inherit it; [`scope`](Self::scope) sets it:
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
    /// A call with this `deadline`, if any.
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        Self { deadline }
    }

    /// The call that the current task serves; `None` outside of a handler.
    #[must_use]
    pub fn current() -> Option<Self> {
        INCOMING.try_with(Self::clone).ok()
    }

    /// The deadline; `None` when the caller set none.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time left; `None` when the caller set no deadline.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// Runs `future` as part of this call.
    ///
    /// # Cancel safety
    /// As cancel safe as `future`.
    pub fn scope<F: Future>(&self, future: F) -> TaskLocalFuture<Self, F> {
        INCOMING.scope(self.clone(), future)
    }

    /// Runs `act` as part of this call.
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
