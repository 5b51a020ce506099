//! Background tasks that end expired leases and delete old reservations.

use std::time::Duration;

use service_kit::retention;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::store::{MAX_DELETED_RESERVATIONS, Store, Sweep};

/// The longest interval between two sweeps: it bounds the delay for leases that
/// another replica has granted.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest interval between two sweeps, should the clock stand still.
const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// The age at which released and expired reservations are deleted. Until then their
/// ids cannot be reserved anew by a late request.
const RESERVATION_RETENTION: Duration = Duration::from_hours(30 * 24);

/// Deletes old reservations, for ever.
///
/// # Cancel safety
/// Cancel safe.
pub async fn delete_old_reservations(store: Store) {
    retention::delete_repeatedly("old reservations", MAX_DELETED_RESERVATIONS, || {
        store.delete_old_reservations(RESERVATION_RETENTION)
    })
    .await;
}

/// Ends leases soon after they expire, for ever. Every replica does this; a lease
/// ends once.
///
/// # Cancel safety
/// Cancel safe: each lease is ended or not.
pub async fn end_leases(store: Store) {
    let mut failing = false;
    loop {
        let interval = match store.sweep().await {
            Ok(Sweep { ended, next }) => {
                if std::mem::take(&mut failing) {
                    info!("expired leases are ended again");
                }
                if ended > 0 {
                    debug!(ended, "{ended} leases expired");
                }
                next.unwrap_or(MAX_INTERVAL).clamp(MIN_INTERVAL, MAX_INTERVAL)
            }
            Err(why) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(error = %why, "failed to end expired leases, retrying: {why}");
                }
                MAX_INTERVAL
            }
        };
        sleep(interval).await;
    }
}
