//! The probe of a disk that failed.

use std::time::Duration;

use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use super::{BUSY_POLL_INTERVAL, BUSY_TIMEOUT, connect, is_busy};
use crate::database::Error;

/// Longer than [`BUSY_TIMEOUT`].
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);

/// Writes to the file and syncs it to the disk; returns the connection. The
/// number `user_version` in the file's header has no other use: every write of
/// it writes a page, in a transaction.
pub(super) async fn probe(options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    timeout(PROBE_TIMEOUT, write(options)).await.unwrap_or(Err(Error::Slow(PROBE_TIMEOUT)))
}

async fn write(options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    let give_up = Instant::now() + BUSY_TIMEOUT;
    let mut connection = connect(options, give_up).await?;
    loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(BUSY_POLL_INTERVAL).await,
            begun => {
                let mut open = begun?;
                open.execute("PRAGMA user_version = 0").await?;
                open.commit().await?;
                break;
            }
        }
    }
    Ok(connection)
}
