//! Polling for changes that other processes make to a SQLite file.

use std::{convert::Infallible, time::Duration};

use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Changes;

/// The poll interval, which bounds how late a subscriber sees another replica's
/// change. A poll takes microseconds and touches no disk.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Announces all keys whenever another connection has committed; never ends.
///
/// This process's own commits count as well, since this connection never writes;
/// subscribers find nothing new then.
pub(crate) async fn poll(options: SqliteConnectOptions, changes: Changes) {
    let mut failing = false;
    loop {
        changes.subscribed().await;
        let Err(why) = follow(&options, &changes, &mut failing).await;
        if !failing {
            let every = RETRY_INTERVAL;
            warn!(error = %why, "polling for changes of other replicas failed, retrying every {every:?}: {why}");
            failing = true;
        }
        sleep(RETRY_INTERVAL).await;
    }
}

async fn follow(
    options: &SqliteConnectOptions,
    changes: &Changes,
    failing: &mut bool,
) -> Result<Infallible, sqlx::Error> {
    let mut connection = options.connect().await?;
    // Unlike any version, so that the first poll announces earlier changes.
    let mut last = None;
    loop {
        changes.subscribed().await;
        let now = Some(data_version(&mut connection).await?);
        if std::mem::take(failing) {
            info!("polling for changes of other replicas works again");
        }
        if now != last {
            last = now;
            changes.announce_all();
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}
