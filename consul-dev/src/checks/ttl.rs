//! Checks that are passing as long as their application sends heartbeats.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::Reporter;
use crate::model::CheckStatus;

/// Sets the check critical whenever `ttl` passes without a heartbeat; ends when the heartbeats' sender is gone.
pub(super) async fn expire(reporter: Reporter, ttl: Duration, mut heartbeats: watch::Receiver<String>) {
    let mut expired = false;
    loop {
        // Once expired it stays expired until the next heartbeat.
        let heartbeat =
            if expired { Ok(heartbeats.changed().await) } else { timeout(ttl, heartbeats.changed()).await };
        match heartbeat {
            Ok(Ok(())) => expired = false,
            Ok(Err(_)) => return,
            // The heartbeat came just in time.
            Err(_) if heartbeats.has_changed().unwrap_or(false) => {}
            Err(_) => {
                expired = true;
                warn!(check = %reporter.check_id, "the check missed its TTL and is critical now");
                let last = heartbeats.borrow_and_update().clone();
                reporter.report(CheckStatus::Critical, expired_output(&last));
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
