//! What is no longer of use is forgotten: now and then, a batch at a time.
//!
//! What the shop keeps, and for how long:
//!
//! | rows | kept |
//! |---|---|
//! | orders and their lines, charges, the ledger | for good: they are the shop's books |
//! | reservations of sold goods | for good: a cancelled order takes them back |
//! | reservations that were released or ran out | 30 days |
//! | answers to requests with an id ([`idempotency`](crate::idempotency)) | 24 hours from the request in which a replica runs; until they are answered, if that is later |
//! | events to be sent (`outbox`, `arrivals`) | until they are taken; one that is set aside, until somebody retries it |
//! | events that were taken (`inbox`) | 7 days; one that comes when it is older than 5 days, and is not known, is set aside |
//! | notifications of a customer | 90 days |
//! | sessions, failed logins, revocations | until they have expired |
//! | accounts that are gone | their id, for good; nothing else of them |
//! | leases, streams, carts, products, stock | a row for each name, customer or product |

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::database::Error;

/// How often to look for what is to be forgotten, less or more a quarter:
/// replicas that start together shall not look together.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long others have the database between two batches.
const BATCH_DELAY: Duration = Duration::from_millis(50);

/// Forgets rows for ever: `forget` deletes up to `batch` and tells how many. A
/// service's work beside its calls. `what` names them in the log.
///
/// # Cancel safety
/// Cancel safe.
pub async fn forget<F>(what: &'static str, batch: u64, forget: impl Fn() -> F)
where
    F: Future<Output = Result<u64, Error>>,
{
    let mut failing = false;
    loop {
        let forgotten = forget().await;
        match &forgotten {
            Err(why) if !failing => warn!(error = %why, what, "cannot forget {what}, trying on: {why}"),
            Ok(_) if failing => info!(what, "forgetting {what} again"),
            _ => {}
        }
        failing = forgotten.is_err();
        let more = forgotten.is_ok_and(|forgotten| forgotten >= batch);
        sleep(if more { BATCH_DELAY } else { INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0) }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn full_batches_follow_each_other_and_a_failure_is_tried_on() {
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
        let forgetting = forget("what is old", 10, batches);
        assert!(timeout(INTERVAL * 4, forgetting).await.is_err());
        let times = times.lock().unwrap();
        assert!(times[1] - times[0] <= BATCH_DELAY * 2 && times[2] - times[1] <= BATCH_DELAY * 2);
        for pair in times[2..].windows(2) {
            let pause = pair[1] - pair[0];
            assert!(pause >= INTERVAL.mul_f64(0.75) && pause <= INTERVAL.mul_f64(1.26), "{pause:?}");
        }
        assert!(times.len() >= 5);
    }
}
