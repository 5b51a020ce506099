//! Rate limiting of log lines that peers can cause.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The interval between two lines.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A limiter for one log line.
#[derive(Debug, Default)]
pub(super) struct LogLimiter(Mutex<Option<LastLine>>);

#[derive(Debug)]
struct LastLine {
    logged_at: Instant,
    suppressed: u64,
}

impl LogLimiter {
    /// The number of lines suppressed since the last one, if a line is to be
    /// written now.
    pub(super) fn admit(&self) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some(last) if now.duration_since(last.logged_at) < LOG_INTERVAL => {
                last.suppressed += 1;
                None
            }
            before => {
                let suppressed = before.take().map_or(0, |last| last.suppressed);
                *before = Some(LastLine { logged_at: now, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_written_once_a_minute_with_how_often_it_was_held_back() {
        let quiet = LogLimiter::default();
        assert_eq!([quiet.admit(), quiet.admit(), quiet.admit()], [Some(0), None, None]);
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!([quiet.admit(), quiet.admit()], [Some(2), None]);
    }
}
