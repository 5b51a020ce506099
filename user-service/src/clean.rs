//! What is no longer of use, removed now and then.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::{clock::Clock, store::Store};

/// How often each replica cleans up.
const EVERY: Duration = Duration::from_secs(60);

/// Removes sessions that have expired, logins that failed long ago and
/// revocations that no token can be older than, again and again, until it is
/// dropped.
pub(crate) async fn tend(store: Store, clock: Clock) {
    let mut failing = false;
    loop {
        // Replicas that start together shall not clean up together.
        sleep(EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        let now = clock.now();
        let cleaned = match store.clean_failures(now).await {
            Ok(_) => store.clean_sessions(now).await,
            failed => failed,
        };
        let cleaned = match cleaned {
            Ok(_) => store.clean_revocations(now).await,
            failed => failed,
        };
        match cleaned {
            Ok(_) => failing = false,
            Err(error) if !failing => {
                warn!(%error, "could not remove what has expired; trying again");
                failing = true;
            }
            Err(_) => {}
        }
    }
}
