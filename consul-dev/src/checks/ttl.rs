//! Checks that are passing only as long as their application says so.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::Reporter;
use crate::model::Status;

/// Sets the check critical whenever `ttl` passes without a heartbeat; ends when the heartbeats' sender is gone.
pub(super) async fn expire(reporter: Reporter, ttl: Duration, mut beats: watch::Receiver<String>) {
    let mut expired = false;
    loop {
        // Once expired it stays so until the next heartbeat.
        let beat = if expired { Ok(beats.changed().await) } else { timeout(ttl, beats.changed()).await };
        match beat {
            Ok(Ok(())) => expired = false,
            Ok(Err(_)) => return,
            // It came at the last moment.
            Err(_) if beats.has_changed().unwrap_or(false) => {}
            Err(_) => {
                expired = true;
                warn!(check = %reporter.check_id, "the check missed its TTL and is critical now");
                let last = beats.borrow_and_update().clone();
                reporter.report(Status::Critical, expired_output(&last));
            }
        }
    }
}

fn expired_output(last: &str) -> String {
    if last.is_empty() {
        return "TTL expired".to_owned();
    }
    format!("TTL expired (last output before timeout follows): {last}")
}
