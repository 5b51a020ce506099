//! Ends leases that ran out, and forgets reservations that ended long ago.

use std::time::Duration;

use service_kit::retention;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::store::{FORGET_BATCH, Store, Swept};

/// The longest pause: leases that another replica has granted are seen then.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause, so that a clock that stands still costs little.
const BREATH: Duration = Duration::from_millis(5);

/// How long a reservation is kept that was released or ran out: its id reserves
/// nothing meanwhile, whoever comes with it how late ever.
const ENDED_KEPT: Duration = Duration::from_hours(30 * 24);

/// Forgets reservations that ended long ago, for ever.
///
/// # Cancel safety
/// Cancel safe.
pub async fn ended(store: Store) {
    retention::delete_repeatedly("old reservations", FORGET_BATCH, || store.forget_ended(ENDED_KEPT)).await;
}

/// Ends leases soon after they run out, for ever. Every replica does this; a
/// lease ends once.
///
/// # Cancel safety
/// Cancel safe: each lease is ended or not.
pub async fn leases(store: Store) {
    let mut failing = false;
    loop {
        let pause = match store.sweep().await {
            Ok(Swept { ended, next }) => {
                if std::mem::take(&mut failing) {
                    info!("leases that run out are ended again");
                }
                if ended > 0 {
                    debug!(ended, "{ended} leases ran out");
                }
                next.unwrap_or(PAUSE).clamp(BREATH, PAUSE)
            }
            Err(why) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(error = %why, "leases that run out cannot be ended now: {why}");
                }
                PAUSE
            }
        };
        sleep(pause).await;
    }
}
