//! When a set is saved: soon after it changed, seldom while it does not, and
//! late when it became suspiciously small.

use std::{io, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tracing::{info, warn};

use super::{
    Store,
    file::{Key, Saved},
};
use crate::resolve::Resolution;

/// Changes of so long are saved together.
const SOON: Duration = Duration::from_millis(500);
/// An unchanged set is saved again this often, for its date.
pub(super) const REFRESH: Duration = Duration::from_secs(300);
/// How long the registry must say an empty or much smaller set before it
/// replaces a good one: as long as the channel keeps instances that such a
/// response lacks.
pub(super) const BELIEF: Duration = Duration::from_secs(600);

/// Saves one service's set; one write at a time.
#[derive(Debug)]
pub(super) struct Writer {
    store: Arc<Store>,
    key: Arc<Key>,
    due: Option<Instant>,
    /// Since when the set is much smaller than what is saved.
    lesser: Option<Instant>,
    running: Option<JoinHandle<io::Result<Saved>>>,
    said_too_large: bool,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, key: Arc<Key>) -> Self {
        Self { store, key, due: None, lesser: None, running: None, said_too_large: false }
    }

    /// The registry says `now`, which may be what it said before.
    pub(super) fn look(&mut self, now: &Resolution) {
        if now.error.is_some() || now.instances.is_none() {
            // Nothing is confirmed while it fails, a loss least of all.
            (self.due, self.lesser) = (None, None);
        } else {
            let soon = Instant::now() + SOON;
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// When [`begin`](Self::begin) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.running.is_none())
    }

    /// Saves what the registry says, off the async threads.
    pub(super) fn begin(&mut self, now: &Resolution) {
        self.due = None;
        let Some(instances) = now.instances.clone() else { return };
        let believed = self.lesser.is_some_and(|since| since.elapsed() >= BELIEF);
        let (store, key) = (self.store.clone(), self.key.clone());
        let save = move || store.folder.save(&key, &instances, REFRESH, believed);
        self.running = Some(tokio::task::spawn_blocking(save));
    }

    /// Completes when a write has ended; never while there is none.
    ///
    /// # Cancel safety
    /// Cancel safe: the write goes on and is waited for again.
    pub(super) async fn ended(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let saved = match running.await {
            Ok(saved) => saved,
            Err(lost) => Err(io::Error::other(lost)),
        };
        self.running = None;
        let next = self.judge(saved);
        // A change since then is not put off.
        self.due.get_or_insert(next);
    }

    /// When to save again.
    fn judge(&mut self, saved: io::Result<Saved>) -> Instant {
        let now = Instant::now();
        match saved {
            Ok(Saved::Held) => return *self.lesser.get_or_insert(now) + BELIEF,
            Ok(Saved::Written) => self.store.works(),
            Ok(Saved::Same) => {}
            Ok(Saved::TooLarge) if self.said_too_large => {}
            Ok(Saved::TooLarge) => {
                self.said_too_large = true;
                let path = self.store.folder.path(&self.key);
                warn!(path = %path.display(), "too many instances for a snapshot; {} is not written", path.display());
            }
            Err(error) => self.store.fails(&error),
        }
        self.lesser = None;
        now + REFRESH
    }
}

impl Store {
    /// Says that nothing can be saved, once.
    fn fails(&self, error: &io::Error) {
        if !self.failing.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let dir = self.dir.display();
            warn!(%dir, %error, "snapshots cannot be written to {dir}: {error}; without them nothing starts while the registry is down. Let this user write there, or set CONSORT_STATE_DIR");
        }
    }

    fn works(&self) {
        if self.failing.swap(false, std::sync::atomic::Ordering::Relaxed) {
            let dir = self.dir.display();
            info!(%dir, "snapshots can be written to {dir} again");
        }
    }
}
