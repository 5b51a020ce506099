//! Notifications of changes through PostgreSQL.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::{CHANNEL, Changes};

const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Announces the key of every notification; never ends. A session lasts `lifetime`.
pub(crate) async fn listen(options: PgConnectOptions, lifetime: Duration, changes: Changes) {
    let mut failing = false;
    loop {
        changes.subscribed().await;
        // A connection of its own, which no burst of calls can exhaust. A new pool
        // each time: a silent connection would keep its place in the old one.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(lifetime)
            .connect_lazy_with(options.clone());
        let why = match PgListener::connect_with(&pool).await {
            Ok(listener) => {
                if failing {
                    info!("LISTEN for changes of other replicas works again");
                    failing = false;
                }
                match follow(listener, lifetime, &changes).await {
                    Ok(()) => continue,
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        if !failing {
            let every = RECONNECT_INTERVAL;
            warn!(error = %why, "LISTEN for changes of other replicas failed, retrying every {every:?}: {why}");
            failing = true;
        }
        sleep(RECONNECT_INTERVAL).await;
    }
}

/// Announces notifications until `lifetime` is over or the session fails.
async fn follow(mut listener: PgListener, lifetime: Duration, changes: &Changes) -> Result<(), sqlx::Error> {
    let end = Instant::now() + lifetime;
    listener.listen(CHANNEL).await?;
    // Changes before this session was opened.
    changes.announce_all();
    loop {
        match timeout_at(end, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => changes.announce(notification.payload()),
            // The connection was lost and reopened; notifications in between are
            // lost.
            Ok(Ok(None)) => changes.announce_all(),
            Ok(Err(why)) => return Err(why),
            Err(_) => return Ok(()),
        }
    }
}
