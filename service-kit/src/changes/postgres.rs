//! Changes that PostgreSQL tells of.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{CHANNEL, Changes};

/// How often to try again while the server is away.
const RETRY: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(5);

/// Announces the key of every notification; never ends.
pub(crate) async fn listen(options: PgConnectOptions, changes: Changes) {
    // A connection of its own, which no burst of calls can take away.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(CONNECT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let mut failing = false;
    loop {
        changes.wanted().await;
        let why = match PgListener::connect_with(&pool).await {
            Ok(listener) => {
                if failing {
                    info!("listening for changes of other replicas again");
                    failing = false;
                }
                follow(listener, &changes).await
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

/// Until the connection fails for good; returns why.
async fn follow(mut listener: PgListener, changes: &Changes) -> sqlx::Error {
    if let Err(why) = listener.listen(CHANNEL).await {
        return why;
    }
    // Whatever happened while nobody listened.
    changes.announce_all();
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) => changes.announce(notification.payload()),
            // The connection was lost and made anew; what was sent meanwhile
            // is gone.
            Ok(None) => changes.announce_all(),
            Err(why) => return why,
        }
    }
}
