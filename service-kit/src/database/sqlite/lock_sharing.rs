//! Pauses that let other processes take SQLite's write lock.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{statement::Statement, writer_connection::WriterConnection};
use crate::database::Error;

/// The time for which the lock stays free: a waiting process polls once in this time.
const YIELD_DURATION: Duration = Duration::from_millis(3);
/// The interval between pauses while another process writes too.
const SHARED_YIELD_INTERVAL: Duration = Duration::from_millis(20);
/// The interval between pauses while no other process writes.
const EXCLUSIVE_YIELD_INTERVAL: Duration = Duration::from_millis(100);

/// The schedule of pauses. A process that commits and begins again at once
/// leaves others no moment to begin.
#[derive(Debug)]
pub(super) struct LockSharing {
    /// When the lock was last free.
    last_free: Instant,
    interval: Duration,
    /// SQLite's counter of commits by other connections.
    data_version: Option<i64>,
    needs_check: bool,
}

impl LockSharing {
    pub(super) fn new() -> Self {
        Self {
            last_free: Instant::now(),
            interval: SHARED_YIELD_INTERVAL,
            data_version: None,
            needs_check: true,
        }
    }

    /// Pauses when the last pause is long enough ago.
    pub(super) async fn yield_lock(&mut self) {
        if self.last_free.elapsed() >= self.interval {
            sleep(YIELD_DURATION).await;
            self.was_free();
        }
    }

    /// Records that this process had nothing to write for so long.
    pub(super) fn record_idle(&mut self, time: Duration) {
        if time >= YIELD_DURATION {
            self.was_free();
        }
    }

    fn was_free(&mut self) {
        self.last_free = Instant::now();
        self.needs_check = true;
    }

    /// Checks, after a pause, if another process has written.
    pub(super) async fn detect_other_writers(
        &mut self,
        connection: &mut WriterConnection,
    ) -> Result<(), Error> {
        if std::mem::take(&mut self.needs_check) {
            let version = Statement::plain("PRAGMA data_version");
            let row = connection.send(&[&version], true).await?.into_rows().next();
            let version = row.map(|row| row.get::<i64>("data_version")).transpose()?;
            let is_unchanged = version == self.data_version;
            self.interval = if is_unchanged { EXCLUSIVE_YIELD_INTERVAL } else { SHARED_YIELD_INTERVAL };
            self.data_version = version;
        }
        Ok(())
    }
}
