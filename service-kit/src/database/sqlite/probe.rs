//! Whether a disk that failed can be written again.

use std::time::Duration;

use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use super::{ASK, BUSY, connect, is_busy};
use crate::database::Error;

/// Longer than the wait for another process.
const LIMIT: Duration = Duration::from_secs(8);

/// Writes to the file and has it written through to the disk; returns the
/// connection that could. `user_version` is a number in the file's header that
/// is otherwise not used: every write of it is one of a page, in a transaction.
pub(super) async fn probe(options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    timeout(LIMIT, write(options)).await.unwrap_or(Err(Error::Slow(LIMIT)))
}

async fn write(options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    let give_up = Instant::now() + BUSY;
    let mut connection = connect(options, give_up).await?;
    loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Err(why) if is_busy(&why) && Instant::now() < give_up => sleep(ASK).await,
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
