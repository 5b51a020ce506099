//! Changes that PostgreSQL tells of.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::{CHANNEL, Changes};
use crate::database::SESSION_LIFETIME;

/// How often to try again while the server is away.
const RETRY: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(5);

/// Announces the key of every notification; never ends.
pub(crate) async fn listen(options: PgConnectOptions, changes: Changes) {
    let mut failing = false;
    loop {
        changes.wanted().await;
        // A connection of its own, which no burst of calls can take away. A pool
        // for each: one that fell silent would keep its place in it.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT)
            .idle_timeout(None)
            .max_lifetime(SESSION_LIFETIME)
            .connect_lazy_with(options.clone());
        let why = match PgListener::connect_with(&pool).await {
            Ok(listener) => {
                if failing {
                    info!("listening for changes of other replicas again");
                    failing = false;
                }
                match follow(listener, &changes).await {
                    Ok(()) => continue,
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        if !failing {
            warn!(error = %why, "cannot listen for changes of other replicas, trying on: {why}");
            failing = true;
        }
        sleep(RETRY).await;
    }
}

/// Until the session has lasted long enough or fails for good.
async fn follow(mut listener: PgListener, changes: &Changes) -> Result<(), sqlx::Error> {
    let end = Instant::now() + SESSION_LIFETIME;
    listener.listen(CHANNEL).await?;
    // Whatever happened while nobody listened.
    changes.announce_all();
    loop {
        match timeout_at(end, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => changes.announce(notification.payload()),
            // The connection was lost and made anew; what was sent meanwhile
            // is gone.
            Ok(Ok(None)) => changes.announce_all(),
            Ok(Err(why)) => return Err(why),
            Err(_) => return Ok(()),
        }
    }
}
