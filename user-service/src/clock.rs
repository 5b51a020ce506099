//! The clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use service_kit::timestamp::Timestamp;

/// A clock that may run ahead of the system's. Cheap to clone; clones show the
/// same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The difference to the system's clock in microseconds.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::of_micros(Timestamp::now().micros().saturating_add(self.offset.load(Relaxed)))
    }

    /// Moves the clock forward, for tests.
    pub fn advance(&self, by: Duration) {
        self.offset.fetch_add(micros(by), Relaxed);
    }
}

/// Converts a time of the system's clock.
pub(crate) fn from_system_time(time: SystemTime) -> Timestamp {
    after(Timestamp::of_micros(0), time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The time so much later.
pub(crate) fn after(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp::of_micros(time.micros().saturating_add(micros(by)))
}

/// The time so much earlier.
pub(crate) fn before(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp::of_micros(time.micros().saturating_sub(micros(by)))
}

/// The duration from `from` to `to`; zero when `to` is earlier.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    let micros = to.micros().saturating_sub(from.micros());
    Duration::from_micros(micros.try_into().unwrap_or_default())
}

fn micros(time: Duration) -> i64 {
    time.as_micros().try_into().unwrap_or(i64::MAX)
}
