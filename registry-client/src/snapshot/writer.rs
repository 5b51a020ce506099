//! The schedule of saving a set: soon after it changed, seldom while it does
//! not, and late when it became suspiciously small.

use std::{io, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tracing::{info, warn};

use super::{
    Store,
    file::{Key, SaveOutcome},
};
use crate::resolve::Resolution;

/// The time in which changes are collected before they are saved.
const WRITE_DELAY: Duration = Duration::from_millis(500);
/// The interval at which an unchanged set is saved again, for its date.
pub(super) const REWRITE_INTERVAL: Duration = Duration::from_secs(300);
/// The time for which a set must be empty or much smaller before it replaces a
/// good one: as long as the channel keeps the instances that it lacks.
pub(super) const SHRINK_DELAY: Duration = Duration::from_secs(600);

/// The writer of one service's snapshot; one write at a time.
#[derive(Debug)]
pub(super) struct Writer {
    store: Arc<Store>,
    key: Arc<Key>,
    next_timer: Option<Instant>,
    /// The time since which the set is much smaller than the saved one.
    shrunken_since: Option<Instant>,
    running: Option<JoinHandle<io::Result<SaveOutcome>>>,
    logged_too_large: bool,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, key: Arc<Key>) -> Self {
        Self { store, key, next_timer: None, shrunken_since: None, running: None, logged_too_large: false }
    }

    /// Takes the current set of the registry, changed or not.
    pub(super) fn update(&mut self, now: &Resolution) {
        if now.error.is_some() || now.instances.is_none() {
            // A failing registry confirms nothing.
            (self.next_timer, self.shrunken_since) = (None, None);
        } else {
            let soon = Instant::now() + WRITE_DELAY;
            self.next_timer = Some(self.next_timer.map_or(soon, |next_timer| next_timer.min(soon)));
        }
    }

    /// The time at which [`start`](Self::start) is to be called.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.next_timer.filter(|_| self.running.is_none())
    }

    /// Saves the current set, off the async threads.
    pub(super) fn start(&mut self, now: &Resolution) {
        self.next_timer = None;
        let Some(instances) = now.instances.clone() else { return };
        let is_confirmed = self.shrunken_since.is_some_and(|since| since.elapsed() >= SHRINK_DELAY);
        let (store, key) = (self.store.clone(), self.key.clone());
        let save = move || store.folder.save(&key, &instances, REWRITE_INTERVAL, is_confirmed);
        self.running = Some(tokio::task::spawn_blocking(save));
    }

    /// Completes when a write has ended; never without one.
    ///
    /// # Cancel safety
    /// Cancel safe: the write goes on and is waited for again.
    pub(super) async fn finished(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let saved = match running.await {
            Ok(saved) => saved,
            Err(lost) => Err(io::Error::other(lost)),
        };
        self.running = None;
        let next = self.handle_result(saved);
        // A change since then is not delayed.
        self.next_timer.get_or_insert(next);
    }

    /// Handles the result of a write; returns the time of the next.
    fn handle_result(&mut self, saved: io::Result<SaveOutcome>) -> Instant {
        let now = Instant::now();
        match saved {
            Ok(SaveOutcome::Deferred) => return *self.shrunken_since.get_or_insert(now) + SHRINK_DELAY,
            Ok(SaveOutcome::Written) => self.store.report_success(),
            Ok(SaveOutcome::Unchanged) => {}
            Ok(SaveOutcome::TooLarge) if self.logged_too_large => {}
            Ok(SaveOutcome::TooLarge) => {
                self.logged_too_large = true;
                let path = self.store.folder.path(&self.key);
                warn!(path = %path.display(), "the snapshot {} is not written: it has too many instances", path.display());
            }
            Err(error) => self.store.report_failure(&error),
        }
        self.shrunken_since = None;
        now + REWRITE_INTERVAL
    }
}

impl Store {
    /// Logs a failed write, once.
    fn report_failure(&self, error: &io::Error) {
        if !self.is_failing.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let dir = self.dir.display();
            warn!(%dir, %error, "failed to write snapshots to {dir}: {error}; without them no process starts while the registry is down. Grant this user write access, or set CONSORT_STATE_DIR");
        }
    }

    fn report_success(&self) {
        if self.is_failing.swap(false, std::sync::atomic::Ordering::Relaxed) {
            let dir = self.dir.display();
            info!(%dir, "snapshots are written to {dir} again");
        }
    }
}
