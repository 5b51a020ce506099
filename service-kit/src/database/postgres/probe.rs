//! Whether a server that may have failed can be written.

use std::{convert::Infallible, time::Duration};

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use crate::database::{Error, health::Told};

/// How often to probe.
const PROBE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(3);
/// Adds to the log of changes, and has it written through to the disk, without
/// any table.
const WRITE: &str = "SELECT pg_logical_emit_message(true, 'consort.probe', '')";

/// Probes whenever somebody doubts, until it succeeds; never ends. One lost
/// connection is no failure: the probe decides.
pub(super) async fn watch(options: PgConnectOptions, health: Told) -> Infallible {
    loop {
        health.doubted().await;
        while let Err(why) = probe(&options).await {
            health.failing(why.to_string());
            sleep(PROBE).await;
        }
        health.healthy();
        sleep(PROBE).await;
    }
}

async fn probe(options: &PgConnectOptions) -> Result<(), Error> {
    let write = async {
        let mut connection = PgConnection::connect_with(options).await?;
        connection.execute("SET synchronous_commit = on").await?;
        connection.execute(WRITE).await?;
        connection.close().await
    };
    match timeout(LIMIT, write).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Slow(LIMIT)),
    }
}
