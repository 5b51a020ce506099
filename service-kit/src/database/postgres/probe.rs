//! Whether a server can be written.

use std::{convert::Infallible, time::Duration};

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use crate::database::{Error, health::Told};

/// How often to probe a server that failed.
const PROBE: Duration = Duration::from_millis(500);
/// After how long in which nobody doubts the server is asked whether it is
/// there: a service without calls shall know too.
const IDLE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(3);
/// Adds to the log of changes, and has it written through to the disk, without
/// any table.
const WRITE: &str = "SELECT pg_logical_emit_message(true, 'consort.probe', '')";

/// Probes whenever somebody doubts or the server is silent, until it succeeds;
/// never ends. One lost connection is no failure: the probe decides.
pub(super) async fn watch(options: PgConnectOptions, health: Told) -> Infallible {
    let mut line = Line { options, connection: None };
    loop {
        if timeout(IDLE, health.doubted()).await.is_err() && line.answers().await {
            continue;
        }
        while let Err(why) = line.write().await {
            health.failing(why.to_string());
            sleep(PROBE).await;
        }
        health.healthy();
        sleep(PROBE).await;
    }
}

/// A connection of the probe's own, kept because each new one costs the server
/// a process.
struct Line {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Line {
    /// Whether the server answers on the connection that there is.
    async fn answers(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let answered = matches!(timeout(LIMIT, connection.ping()).await, Ok(Ok(())));
        self.connection = answered.then_some(connection);
        answered
    }

    /// Writes, on a new connection where the old one is lost.
    async fn write(&mut self) -> Result<(), Error> {
        self.answers().await;
        let held = self.connection.take();
        let write = async {
            let mut connection = match held {
                Some(connection) => connection,
                None => PgConnection::connect_with(&self.options).await?,
            };
            connection.execute("SET synchronous_commit = on").await?;
            connection.execute(WRITE).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match timeout(LIMIT, write).await {
            Ok(written) => {
                self.connection = Some(written?);
                Ok(())
            }
            Err(_) => Err(Error::Slow(LIMIT)),
        }
    }
}
