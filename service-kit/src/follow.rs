//! Streams that begin with the current state and continue with every change.

use std::{future::Future, pin::Pin};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tonic::{Code, Status};

use crate::{changes::Subscription, error::Fault};

/// The response stream of a watch method.
pub type UpdateStream<T> = BoxStream<'static, Result<T, Status>>;

/// Streams the current state and every later one that is seen, until the caller
/// cancels or `drain` completes, which ends the stream with UNAVAILABLE so that
/// the caller resumes it on another replica.
///
/// `read` gets the version of the state that was sent last, such as its etag, and
/// returns the current state with its version, or `None` when it is the same. It
/// is called only when the caller takes the next message: a slow caller gets the
/// newest state and skips those between, and nothing queues up for it. The first
/// error ends the stream, and the guard ends it when the caller's token is no
/// longer valid.
pub fn follow<T, K, R, F>(
    subscription: impl ChangeSource,
    domain: &'static str,
    drain: impl Future<Output = ()> + Send + 'static,
    read: R,
) -> UpdateStream<T>
where
    T: Send + 'static,
    K: Copy + Send + Sync + 'static,
    R: FnMut(Option<K>) -> F + Send + 'static,
    F: Future<Output = Result<Option<(K, T)>, Status>> + Send + 'static,
{
    let follower = Follower { subscription, domain, drain: Box::pin(drain), read, sent: None };
    stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(state) => Some((Ok(state), Some(follower))),
            Err(status) => Some((Err(status), None)),
        }
    })
    .boxed()
}

/// A source of changes.
pub trait ChangeSource: Send + 'static {
    /// Waits until something may have changed.
    ///
    /// # Cancel safety
    /// As [`Subscription::changed`].
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

impl ChangeSource for Subscription {
    async fn changed(&mut self) {
        Self::changed(self).await;
    }
}

/// Changes of either subscription.
impl ChangeSource for [Subscription; 2] {
    async fn changed(&mut self) {
        let [one, other] = self;
        tokio::select! {
            biased;
            () = one.changed() => {}
            () = other.changed() => {}
        }
    }
}

struct Follower<C, K, R> {
    subscription: C,
    domain: &'static str,
    drain: Pin<Box<dyn Future<Output = ()> + Send>>,
    read: R,
    /// The version that was sent last; `None` until the first state is sent, which
    /// waits for no change.
    sent: Option<K>,
}

impl<C: ChangeSource, K: Copy, R> Follower<C, K, R> {
    async fn next<T, F>(&mut self) -> Result<T, Status>
    where
        R: FnMut(Option<K>) -> F,
        F: Future<Output = Result<Option<(K, T)>, Status>>,
    {
        let Self { subscription, read, sent, .. } = self;
        let next = async {
            loop {
                if sent.is_some() {
                    subscription.changed().await;
                }
                if let Some((version, state)) = read(*sent).await? {
                    *sent = Some(version);
                    return Ok(state);
                }
            }
        };
        tokio::select! {
            biased;
            () = &mut self.drain => Err(stopping(self.domain)),
            state = next => state,
        }
    }
}

fn stopping(domain: &'static str) -> Status {
    let words = "this replica is shutting down; call again to reach another";
    Fault::new(Code::Unavailable, "DRAINING", words).into_status(domain)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{changes::Changes, value::Etag};

    struct Followed {
        changes: Changes,
        version: Arc<AtomicU64>,
        stream: UpdateStream<u64>,
        drain: oneshot::Sender<()>,
    }

    fn followed() -> Followed {
        let (changes, version) = (Changes::default(), Arc::new(AtomicU64::new(0)));
        let (drain, draining) = oneshot::channel();
        let state = version.clone();
        let stream = follow(changes.subscribe("a"), "test", draining.map(drop), move |sent| {
            let now = state.load(SeqCst);
            let etag = Etag::of(now.try_into().unwrap());
            async move {
                if now == 13 {
                    return Err(Status::internal("unlucky"));
                }
                Ok((sent != Some(etag)).then_some((etag, now)))
            }
        });
        Followed { changes, version, stream, drain }
    }

    impl Followed {
        fn change(&self, version: u64) {
            self.version.store(version, SeqCst);
            self.changes.announce("a");
        }

        fn next(&mut self) -> Option<Option<Result<u64, Code>>> {
            let next = self.stream.next().now_or_never();
            next.map(|item| item.map(|item| item.map_err(|status| status.code())))
        }
    }

    #[tokio::test]
    async fn it_begins_with_the_current_state_and_skips_those_that_were_not_taken() {
        let mut followed = followed();
        assert_eq!(followed.next(), Some(Some(Ok(0))));
        assert_eq!(followed.next(), None);
        (1..=5).for_each(|version| followed.change(version));
        assert_eq!(followed.next(), Some(Some(Ok(5))));
        assert_eq!(followed.next(), None);
    }

    #[tokio::test]
    async fn an_announcement_without_a_change_sends_nothing() {
        let mut followed = followed();
        assert_eq!(followed.next(), Some(Some(Ok(0))));
        followed.changes.announce_all();
        assert_eq!(followed.next(), None);
        followed.change(1);
        assert_eq!(followed.next(), Some(Some(Ok(1))));
    }

    #[tokio::test]
    async fn it_ends_with_unavailable_on_drain_and_with_the_first_error() {
        let mut drained = followed();
        assert_eq!(drained.next(), Some(Some(Ok(0))));
        let (drain, _) = oneshot::channel();
        std::mem::replace(&mut drained.drain, drain).send(()).unwrap();
        assert_eq!(drained.next(), Some(Some(Err(Code::Unavailable))));
        assert_eq!(drained.next(), Some(None));

        let mut failed = followed();
        failed.change(13);
        assert_eq!(failed.next(), Some(Some(Err(Code::Internal))));
        assert_eq!(failed.next(), Some(None));
    }
}
