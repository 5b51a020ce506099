//! Changes that other processes make to a SQLite file.

use std::{convert::Infallible, time::Duration};

use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Changes;

/// How often to look: a watcher sees another replica's change this much later
/// at most. Looking takes microseconds and touches no disk.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often to try again while looking fails.
const RETRY: Duration = Duration::from_secs(1);

/// Announces all keys whenever another connection has committed; never ends.
///
/// Our own commits count as another's here, since this connection never
/// writes; those who look find nothing new.
pub(crate) async fn poll(options: SqliteConnectOptions, changes: Changes) {
    let mut failing = false;
    loop {
        changes.wanted().await;
        let Err(why) = follow(&options, &changes, &mut failing).await;
        if !failing {
            warn!(error = %why, "cannot look for changes of other replicas, trying on: {why}");
            failing = true;
        }
        sleep(RETRY).await;
    }
}

async fn follow(
    options: &SqliteConnectOptions,
    changes: &Changes,
    failing: &mut bool,
) -> Result<Infallible, sqlx::Error> {
    let mut connection = options.connect().await?;
    // Unlike any, so that the first look announces what happened before it.
    let mut last = None;
    loop {
        changes.wanted().await;
        let now = Some(data_version(&mut connection).await?);
        if std::mem::take(failing) {
            info!("looking for changes of other replicas again");
        }
        if now != last {
            last = now;
            changes.announce_all();
        }
        sleep(INTERVAL).await;
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}
