//! Notifications of changes, from the transaction that commits one to the
//! subscribers.
//!
//! The commit announces a change made in this process. The database reports one
//! made by another replica: SQLite counts the commits of others in
//! `data_version`, which tells that something changed but not what, so all
//! subscribers are notified; PostgreSQL sends the key. A notification carries no
//! data, and several become one while a subscriber is busy: nothing queues up
//! behind a slow one.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

mod postgres;
mod sqlite;

pub(crate) use postgres::listen as listen_postgres;
pub(crate) use sqlite::poll as poll_sqlite;

/// PostgreSQL's channel for changes. Channels belong to a database, and each
/// service has a database of its own.
pub(crate) const CHANNEL: &str = "changes";

/// The subscriptions to changes. Cheap to clone; clones share subscribers.
#[derive(Clone)]
pub struct Changes {
    shared: Arc<Shared>,
}

struct Shared {
    /// One entry for each key with a subscriber.
    topics: Mutex<Topics>,
    /// Without subscribers the database is not polled.
    has_subscribers: watch::Sender<bool>,
}

type Topics = HashMap<String, watch::Sender<()>>;

impl Changes {
    /// Subscribes to changes of `key` from now on.
    #[must_use]
    pub fn subscribe(&self, key: &str) -> Subscription {
        let mut topics = self.shared.topics();
        let topic = topics.entry(key.to_owned()).or_insert_with(|| watch::Sender::new(()));
        let receiver = topic.subscribe();
        drop(topics);
        self.shared.has_subscribers.send_if_modified(|has| !std::mem::replace(has, true));
        Subscription { shared: self.shared.clone(), key: key.to_owned(), receiver }
    }

    /// Announces that `key` may have changed.
    pub fn announce(&self, key: &str) {
        if let Some(topic) = self.shared.topics().get(key) {
            topic.send_replace(());
        }
    }

    /// Announces that any key may have changed.
    pub fn announce_all(&self) {
        for topic in self.shared.topics().values() {
            topic.send_replace(());
        }
    }

    /// Waits until there is a subscriber.
    pub(crate) async fn subscribed(&self) {
        let mut has_subscribers = self.shared.has_subscribers.subscribe();
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = has_subscribers.wait_for(|has| *has).await;
    }
}

impl Default for Changes {
    fn default() -> Self {
        let shared = Shared { topics: Mutex::default(), has_subscribers: watch::Sender::new(false) };
        Self { shared: Arc::new(shared) }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("topics", &self.shared.topics().len()).finish()
    }
}

impl Shared {
    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription to the changes of one key, until it is dropped.
pub struct Subscription {
    shared: Arc<Shared>,
    key: String,
    receiver: watch::Receiver<()>,
}

impl Subscription {
    /// Waits for an announcement since the last completion of this method, or
    /// since subscribing. Read first, then wait: a change between the two is not
    /// lost.
    ///
    /// # Cancel safety
    /// Cancel safe: the next call returns a change that this one did not.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender lives as long as `self`, so this is not reached.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.shared.topics();
        // Under the lock no receiver is added; the last one is this one.
        if topics.get(&self.key).is_some_and(|topic| topic.receiver_count() <= 1) {
            topics.remove(&self.key);
        }
        if topics.is_empty() {
            self.shared.has_subscribers.send_if_modified(|has| std::mem::replace(has, false));
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_change_notifies_its_own_subscribers_once() {
        let changes = Changes::default();
        let (mut one, mut other) = (changes.subscribe("a"), changes.subscribe("b"));
        assert_eq!(one.changed().now_or_never(), None);
        changes.announce("a");
        changes.announce("a");
        assert_eq!(one.changed().now_or_never(), Some(()));
        assert_eq!(one.changed().now_or_never(), None);
        assert_eq!(other.changed().now_or_never(), None);
        changes.announce_all();
        assert_eq!(other.changed().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn a_dropped_subscription_leaves_nothing_behind() {
        let changes = Changes::default();
        assert_eq!(changes.subscribed().now_or_never(), None);
        let (one, other) = (changes.subscribe("a"), changes.subscribe("a"));
        drop(one);
        assert_eq!(changes.subscribed().now_or_never(), Some(()));
        assert_eq!(changes.shared.topics().len(), 1);
        drop(other);
        assert_eq!(changes.shared.topics().len(), 0);
        assert_eq!(changes.subscribed().now_or_never(), None);
    }
}
