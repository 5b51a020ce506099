//! What time it is.

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
    /// In microseconds.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::of_micros(Timestamp::now().micros().saturating_add(self.ahead.load(Relaxed)))
    }

    /// Moves the present forward, as tests want it.
    pub fn advance(&self, by: Duration) {
        self.ahead.fetch_add(micros(by), Relaxed);
    }
}

/// The system's word for a moment, read.
pub(crate) fn moment(time: SystemTime) -> Timestamp {
    after(Timestamp::of_micros(0), time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// `moment`, and so much later.
pub(crate) fn after(moment: Timestamp, by: Duration) -> Timestamp {
    Timestamp::of_micros(moment.micros().saturating_add(micros(by)))
}

/// `moment`, and so much earlier.
pub(crate) fn before(moment: Timestamp, by: Duration) -> Timestamp {
    Timestamp::of_micros(moment.micros().saturating_sub(micros(by)))
}

/// How long from `from` until `to`; nothing when that is past.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    let micros = to.micros().saturating_sub(from.micros());
    Duration::from_micros(micros.try_into().unwrap_or_default())
}

fn micros(time: Duration) -> i64 {
    time.as_micros().try_into().unwrap_or(i64::MAX)
}
