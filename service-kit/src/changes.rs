//! Who wants to know that something changed, and who says so.
//!
//! A change made in this process is announced by its commit. One made by
//! another replica is noticed on the database: SQLite counts the commits of
//! others in `data_version`, which says that something changed but not what,
//! so everybody looks; PostgreSQL sends the key. Either way a subscriber learns
//! only *that* it should look, once however often it happened since it last
//! did: nothing queues up behind a slow one.

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

/// PostgreSQL's channel for changes. Each service has a database of its own,
/// and channels are a database's own.
pub(crate) const CHANNEL: &str = "changes";

/// Where changes are announced and waited for. Cheap to clone; clones share
/// subscribers.
#[derive(Clone)]
pub struct Changes {
    shared: Arc<Shared>,
}

struct Shared {
    /// One entry for each key that somebody waits for.
    topics: Mutex<Topics>,
    /// Whether anybody waits: nobody polls for nobody.
    wanted: watch::Sender<bool>,
}

type Topics = HashMap<String, watch::Sender<()>>;

impl Changes {
    /// From now on remembers changes of what `key` names.
    #[must_use]
    pub fn subscribe(&self, key: &str) -> Subscription {
        let mut topics = self.shared.topics();
        let topic = topics.entry(key.to_owned()).or_insert_with(|| watch::Sender::new(()));
        let receiver = topic.subscribe();
        drop(topics);
        self.shared.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        Subscription { shared: self.shared.clone(), key: key.to_owned(), receiver }
    }

    /// Says that what `key` names may have changed.
    pub fn announce(&self, key: &str) {
        if let Some(topic) = self.shared.topics().get(key) {
            topic.send_replace(());
        }
    }

    /// Says that anything may have changed.
    pub fn announce_all(&self) {
        for topic in self.shared.topics().values() {
            topic.send_replace(());
        }
    }

    /// Waits until somebody is subscribed.
    pub(crate) async fn wanted(&self) {
        let mut wanted = self.shared.wanted.subscribe();
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = wanted.wait_for(|wanted| *wanted).await;
    }
}

impl Default for Changes {
    fn default() -> Self {
        let shared = Shared { topics: Mutex::default(), wanted: watch::Sender::new(false) };
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

/// Hears of changes of one thing until it is dropped.
pub struct Subscription {
    shared: Arc<Shared>,
    key: String,
    receiver: watch::Receiver<()>,
}

impl Subscription {
    /// Waits until a change was announced since the last time this completed,
    /// or since subscribing. Look first, then wait: a change between the two
    /// is not lost.
    ///
    /// # Cancel safety
    /// Cancel safe: a change that was not told is told next time.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender is kept for as long as we are, so this is not reached.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.shared.topics();
        // Under the lock nobody joins; the one receiver that is left is ours.
        if topics.get(&self.key).is_some_and(|topic| topic.receiver_count() <= 1) {
            topics.remove(&self.key);
        }
        if topics.is_empty() {
            self.shared.wanted.send_if_modified(|wanted| std::mem::replace(wanted, false));
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
    async fn a_change_is_told_once_and_only_to_those_it_concerns() {
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
    async fn nothing_is_left_of_those_who_leave() {
        let changes = Changes::default();
        assert_eq!(changes.wanted().now_or_never(), None);
        let (one, other) = (changes.subscribe("a"), changes.subscribe("a"));
        drop(one);
        assert_eq!(changes.wanted().now_or_never(), Some(()));
        assert_eq!(changes.shared.topics().len(), 1);
        drop(other);
        assert_eq!(changes.shared.topics().len(), 0);
        assert_eq!(changes.wanted().now_or_never(), None);
    }
}
