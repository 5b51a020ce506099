//! Log lines that a peer can cause are written once a minute.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often the same thing is logged.
const INTERVAL: Duration = Duration::from_secs(60);

/// Holds one log line back while it would be repeated.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<Option<Held>>);

#[derive(Debug)]
struct Held {
    said_at: Instant,
    held_back: u64,
}

impl Quiet {
    /// Returns whether to write the line now: how often it was held back
    /// before.
    pub(super) fn say(&self) -> Option<u64> {
        let now = Instant::now();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Some(held) if now.duration_since(held.said_at) < INTERVAL => {
                held.held_back += 1;
                None
            }
            before => {
                let held_back = before.take().map_or(0, |held| held.held_back);
                *before = Some(Held { said_at: now, held_back: 0 });
                Some(held_back)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_written_once_a_minute_with_how_often_it_was_held_back() {
        let quiet = Quiet::default();
        assert_eq!([quiet.say(), quiet.say(), quiet.say()], [Some(0), None, None]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!([quiet.say(), quiet.say()], [Some(2), None]);
    }
}
