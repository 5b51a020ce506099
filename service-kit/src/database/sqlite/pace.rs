//! Leaving the file to the writers of other processes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{desk::Desk, statement::Statement};
use crate::database::Error;

/// How long the file is left alone: whoever waits asks once in this time.
const WAY: Duration = Duration::from_millis(3);
/// After how long it is, while another process has written.
const SHARED: Duration = Duration::from_millis(20);
/// After how long it is, while none has.
const ALONE: Duration = Duration::from_millis(100);

/// One who commits and begins again at once leaves others no moment to begin.
#[derive(Debug)]
pub(super) struct Pace {
    /// Since when the file was not left alone.
    since: Instant,
    stretch: Duration,
    /// What SQLite counts the commits of others in.
    version: Option<i64>,
    look: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), stretch: SHARED, version: None, look: true }
    }

    /// Leaves the file alone when it was not for long.
    pub(super) async fn give_way(&mut self) {
        if self.since.elapsed() >= self.stretch {
            sleep(WAY).await;
            self.was_left();
        }
    }

    /// Nobody here wanted to write for this long.
    pub(super) fn was_idle(&mut self, time: Duration) {
        if time >= WAY {
            self.was_left();
        }
    }

    fn was_left(&mut self) {
        self.since = Instant::now();
        self.look = true;
    }

    /// After the file was left alone, sees whether another has written.
    pub(super) async fn look(&mut self, desk: &mut Desk) -> Result<(), Error> {
        if std::mem::take(&mut self.look) {
            let version = Statement::plain("PRAGMA data_version");
            let row = desk.send(&[&version], true).await?.into_rows().next();
            let version = row.map(|row| row.get::<i64>("data_version")).transpose()?;
            self.stretch = if version == self.version { ALONE } else { SHARED };
            self.version = version;
        }
        Ok(())
    }
}
