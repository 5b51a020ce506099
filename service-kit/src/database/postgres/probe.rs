//! Whether a server can be written.

use std::{convert::Infallible, time::Duration};

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use super::session::{self, SESSION_LIFETIME};
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
const READ_ONLY: &str = "the server takes no writes: it is a standby, or default_transaction_read_only is on; \
                         let the address in DATABASE_URL lead to the primary";

/// Probes whenever somebody doubts or the server is silent, until it succeeds;
/// never ends. One lost connection is no failure: the probe decides. It has a
/// connection of its own, since those of the pool may all be busy; it sees what
/// they see, because whatever discards theirs discards this one too, and because
/// what it finds mended discards theirs.
pub(super) async fn watch(options: PgConnectOptions, health: Told) -> Infallible {
    let mut line = Line { options, health: health.clone(), connection: None };
    loop {
        if timeout(IDLE, health.doubted()).await.is_err() && line.is_writable().await {
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
/// a process, and when it was opened.
struct Line {
    options: PgConnectOptions,
    health: Told,
    connection: Option<(PgConnection, Instant)>,
}

impl Line {
    /// Whether the server answers on the connection that there is, and would
    /// write.
    async fn is_writable(&mut self) -> bool {
        let Some((mut connection, opened)) = self.connection.take() else { return false };
        if opened.elapsed() >= SESSION_LIFETIME || self.health.has_discarded(opened.elapsed()) {
            return false;
        }
        let asked = timeout(LIMIT, session::is_read_only(&mut connection)).await;
        let writable = matches!(asked, Ok(Ok(false)));
        self.connection = writable.then_some((connection, opened));
        writable
    }

    /// Writes, on a new connection where the old one is lost.
    async fn write(&mut self) -> Result<(), Error> {
        self.is_writable().await;
        let held = self.connection.take();
        let write = async {
            let (mut connection, opened) = match held {
                Some(held) => held,
                None => (PgConnection::connect_with(&self.options).await?, Instant::now()),
            };
            if session::is_read_only(&mut connection).await? {
                return Err(Error::Failing(READ_ONLY.to_owned()));
            }
            connection.execute("SET synchronous_commit = on").await?;
            connection.execute(WRITE).await?;
            Ok((connection, opened))
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
