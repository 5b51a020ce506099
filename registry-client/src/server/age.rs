//! The maximum age of connections.

use std::{future::pending, time::Duration};

use tokio::time::sleep;

use crate::ServerConfig;

/// The age at which a connection gets GOAWAY, and the time until it is closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    limit: Option<Duration>,
    grace: Option<Duration>,
}

impl Age {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self { limit: config.max_connection_age, grace: config.max_connection_age_grace }
    }

    /// Completes when a connection that opens now reaches the maximum age;
    /// never without one.
    pub(super) async fn reached(self) {
        match self.limit {
            Some(limit) => sleep(spread(limit, fastrand::f64())).await,
            None => pending().await,
        }
    }

    /// Completes when the grace period of an aged connection is over; never
    /// without one.
    pub(super) async fn grace_over(self) {
        match self.grace {
            Some(grace) => sleep(grace).await,
            None => pending().await,
        }
    }
}

/// The age plus or minus a tenth (gRFC A9), so that connections that were
/// opened together are not replaced together. `at` is between 0 and 1.
fn spread(limit: Duration, at: f64) -> Duration {
    let tenth = limit / 10;
    (limit - tenth).saturating_add((2 * tenth).mul_f64(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_by_a_tenth() {
        let limit = Duration::from_secs(100);
        assert_eq!(spread(limit, 0.0), Duration::from_secs(90));
        assert_eq!(spread(limit, 0.5), limit);
        assert_eq!(spread(limit, 1.0), Duration::from_secs(110));
        for limit in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            assert!(spread(limit, 0.99) >= limit - limit / 10);
        }
    }
}
