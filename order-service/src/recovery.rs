//! Carries on what was left: by a replica that crashed, or because a neighbour
//! was away.
//!
//! Every replica looks for orders that are due, at least twice a second, and
//! takes them on; of several that find the same order one gets it.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};
use tracing::{info, warn};

use crate::{domain::OrderId, saga::Sagas};

/// How often to look for orders that are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often to look while the database fails.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How many orders are carried on at once.
const MOST: usize = 32;

/// Carries on what was left, for ever: a service's work beside its calls. When
/// it ends, so does all that `sagas` runs.
///
/// # Cancel safety
/// What is under way is carried on when its lease runs out.
pub async fn recover(sagas: Sagas) {
    let _owner = sagas.owner();
    let mut working = JoinSet::new();
    let mut failing = false;
    loop {
        while working.try_join_next().is_some() {}
        let room = MOST - working.len();
        let due = sagas.store().due(i64::try_from(room).unwrap_or_default()).await;
        match &due {
            Err(why) if !failing => warn!(error = %why, "cannot look for orders to carry on: {why}"),
            Ok(_) if failing => info!("looking for orders to carry on again"),
            _ => {}
        }
        failing = due.is_err();
        let due = due.unwrap_or_default();
        let full = due.len() == room;
        for id in due {
            working.spawn(carry_on(sagas.clone(), id));
        }
        if full {
            // There may be more than fit.
            working.join_next().await;
        } else {
            // Replicas that started together do not look together.
            let every = if failing { TRY_EVERY } else { LOOK_EVERY };
            sleep(every.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}

async fn carry_on(sagas: Sagas, id: OrderId) {
    match sagas.store().take(id).await {
        Ok(Some(held)) => {
            let state = held.order.state().as_str();
            if held.attempts == 0 {
                info!(order = %id, state, "carries on an order that was left {state}");
            }
            sagas.drive(held).await;
        }
        Ok(None) => {}
        Err(why) => warn!(order = %id, error = %why, "an order could not be taken on: {why}"),
    }
}
