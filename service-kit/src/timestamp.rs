//! Points in time.

use std::time::{SystemTime, UNIX_EPOCH};

const MICROS: i64 = 1_000_000;

/// A point in time with microsecond precision, like the databases'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The current time of the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_micros().try_into().unwrap_or(i64::MAX))
    }

    /// The time so many microseconds after 1970 began in UTC.
    #[must_use]
    pub fn of_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970 began in UTC.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }
}

impl From<Timestamp> for prost_types::Timestamp {
    fn from(moment: Timestamp) -> Self {
        let nanos = moment.0.rem_euclid(MICROS) * 1_000;
        // Below 10^9, so it always fits.
        Self { seconds: moment.0.div_euclid(MICROS), nanos: i32::try_from(nanos).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_goes_to_the_wire_whole() {
        for (micros, seconds, nanos) in [(1_500_000, 1, 500_000_000), (0, 0, 0), (-1, -1, 999_999_000)] {
            let wire = prost_types::Timestamp::from(Timestamp::of_micros(micros));
            assert_eq!((wire.seconds, wire.nanos), (seconds, nanos));
        }
    }
}
