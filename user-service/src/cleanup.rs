//! The deletion of old rows.

use service_kit::retention::delete_repeatedly;

use crate::{
    clock::Clock,
    store::{CLEANUP_BATCH_SIZE, Store},
};

/// Deletes expired sessions, and old failed logins, revocations and notifications, at
/// intervals, until it is dropped.
pub(crate) async fn run(store: Store, clock: Clock) {
    let (store, now, batch) = (&store, || clock.now(), CLEANUP_BATCH_SIZE.unsigned_abs());
    tokio::join!(
        delete_repeatedly("expired sessions", batch, || store.delete_old_sessions(now())),
        delete_repeatedly("failed logins", batch, || store.delete_old_failures(now())),
        delete_repeatedly("old revocations", batch, || store.delete_old_revocations(now())),
        delete_repeatedly("old notifications", batch, || store.delete_old_notifications(now())),
    );
}
