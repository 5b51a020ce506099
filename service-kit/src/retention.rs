//! Deletion of old rows, in batches.
//!
//! The shop keeps rows for so long:
//!
//! | rows | kept |
//! |---|---|
//! | orders and their lines, charges, the ledger | for ever: they are the shop's books |
//! | reservations of sold goods | for ever: a cancelled order returns them |
//! | reservations that were released or expired | 30 days |
//! | responses to requests with an id ([`idempotency`](crate::idempotency)) | for 24 hours of a replica's running time after the request; at least until the response |
//! | events to be sent (`outbox`, `arrivals`) | until they are taken; a parked one, until an operator retries it |
//! | events that were taken (`inbox`) | 7 days; an unknown event that is older than 5 days is parked |
//! | notifications of a customer | 90 days |
//! | sessions, failed logins, revocations | until they expire |
//! | deleted accounts | only their id, for ever |
//! | leases, streams, carts, products, stock | a row for each name, customer or product |

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::database::Error;

/// The interval between deletions, plus or minus a quarter so that replicas that
/// start together do not coincide.
const INTERVAL: Duration = Duration::from_secs(60);
/// The delay between two batches, during which others use the database.
const BATCH_DELAY: Duration = Duration::from_millis(50);

/// Deletes rows at intervals, for ever: `delete` deletes up to `batch` rows and
/// returns their number. A background task of a service. `what` names the rows in
/// the log.
///
/// # Cancel safety
/// Cancel safe.
pub async fn delete_repeatedly<F>(what: &'static str, batch: u64, delete: impl Fn() -> F)
where
    F: Future<Output = Result<u64, Error>>,
{
    let mut failing = false;
    loop {
        let deleted = delete().await;
        match &deleted {
            Err(why) if !failing => {
                warn!(error = %why, what, "failed to delete {what}, retrying every {INTERVAL:?}: {why}");
            }
            Ok(_) if failing => info!(what, "deletion of {what} works again"),
            _ => {}
        }
        failing = deleted.is_err();
        let more = deleted.is_ok_and(|deleted| deleted >= batch);
        sleep(if more { BATCH_DELAY } else { INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0) }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn full_batches_follow_each_other_and_a_failure_is_retried() {
        let began = Instant::now();
        let times: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let batches = || {
            let times = times.clone();
            async move {
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                times.push(began.elapsed());
                match times.len() {
                    1 | 2 => Ok(10),
                    3 => Ok(9),
                    4 => Err(Error::Aborted),
                    _ => Ok(0),
                }
            }
        };
        let deleting = delete_repeatedly("old rows", 10, batches);
        assert!(timeout(INTERVAL * 4, deleting).await.is_err());
        let times = times.lock().unwrap();
        assert!(times[1] - times[0] <= BATCH_DELAY * 2 && times[2] - times[1] <= BATCH_DELAY * 2);
        for pair in times[2..].windows(2) {
            let pause = pair[1] - pair[0];
            assert!(pause >= INTERVAL.mul_f64(0.75) && pause <= INTERVAL.mul_f64(1.26), "{pause:?}");
        }
        assert!(times.len() >= 5);
    }
}
