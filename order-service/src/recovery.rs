//! Recovery of abandoned orders, after a crash of a replica or a failure of a
//! dependency.
//!
//! Every replica polls for orders that are due, at least twice a second, and
//! resumes them; of several that find the same order one claims it.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};
use tracing::{info, warn};

use crate::{domain::OrderId, saga::Sagas};

/// The interval of polls for due orders.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The interval of polls while the database fails.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_CONCURRENT_ORDERS: usize = 32;

/// Resumes abandoned orders, for ever: a background task of the service. When it
/// ends, everything that `sagas` runs ends, too.
///
/// # Cancel safety
/// Orders in progress are resumed when their leases expire.
pub async fn recover(sagas: Sagas) {
    let _owner = sagas.owner();
    let mut tasks = JoinSet::new();
    let mut failing = false;
    loop {
        while tasks.try_join_next().is_some() {}
        let capacity = MAX_CONCURRENT_ORDERS - tasks.len();
        let due = sagas.store().due(i64::try_from(capacity).unwrap_or_default()).await;
        match &due {
            Err(why) if !failing => {
                warn!(error = %why, "failed to read the due orders, retrying every {RETRY_INTERVAL:?}: {why}");
            }
            Ok(_) if failing => info!("reading the due orders works again"),
            _ => {}
        }
        failing = due.is_err();
        let due = due.unwrap_or_default();
        let is_full = due.len() == capacity;
        for id in due {
            tasks.spawn(resume(sagas.clone(), id));
        }
        if is_full {
            // More orders may be due.
            tasks.join_next().await;
        } else {
            // Random, so that replicas that started together do not poll together.
            let interval = if failing { RETRY_INTERVAL } else { POLL_INTERVAL };
            sleep(interval.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}

async fn resume(sagas: Sagas, id: OrderId) {
    match sagas.store().claim_due(id).await {
        Ok(Some(claimed)) => {
            let state = claimed.order.state().as_str();
            if claimed.attempts == 0 {
                info!(order = %id, state, "resuming the abandoned order {id}, which is {state}");
            }
            sagas.run_steps(claimed).await;
        }
        Ok(None) => {}
        Err(why) => warn!(order = %id, error = %why, "failed to claim the due order {id}: {why}"),
    }
}
