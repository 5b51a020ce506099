//! What is no longer of use, removed now and then.

use service_kit::retention::forget;

use crate::{
    clock::Clock,
    store::{CLEAN_BATCH, Store},
};

/// Removes sessions that have expired, logins that failed long ago, revocations
/// that no token can be older than, and notifications of long ago, again and
/// again, until it is dropped.
pub(crate) async fn tend(store: Store, clock: Clock) {
    let (store, now, batch) = (&store, || clock.now(), CLEAN_BATCH.unsigned_abs());
    tokio::join!(
        forget("expired sessions", batch, || store.clean_sessions(now())),
        forget("failed logins", batch, || store.clean_failures(now())),
        forget("old revocations", batch, || store.clean_revocations(now())),
        forget("old notifications", batch, || store.clean_notifications(now())),
    );
}
