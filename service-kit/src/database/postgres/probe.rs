//! The probe of a server that may have failed.

use std::{convert::Infallible, time::Duration};

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use super::session::{self, SESSION_LIFETIME};
use crate::database::{Error, health::HealthReporter};

/// The interval between probes of a server that failed.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The interval of the check while no statement fails: a service without calls
/// must notice a failure too.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Writes a message to the write-ahead log, through to the disk, without any
/// table.
const WRITE: &str = "SELECT pg_logical_emit_message(true, 'consort.probe', '')";
const READ_ONLY: &str = "the server is read-only: it is a standby, or default_transaction_read_only is on; \
                         point DATABASE_URL to the primary";

/// Probes after each failure or silence of the server, until a probe succeeds;
/// never ends. One lost connection is no failure: the probe decides. It has a
/// connection of its own, since those of the pool may all be busy. That
/// connection leads to the same server as theirs, because an event that discards
/// theirs discards it too, and because a recovery discards theirs.
pub(super) async fn watch(options: PgConnectOptions, health: HealthReporter) -> Infallible {
    let mut probe = Probe { options, health: health.clone(), connection: None };
    loop {
        let is_idle = timeout(IDLE_CHECK_INTERVAL, health.probe_requested()).await.is_err();
        if is_idle && probe.is_writable().await {
            continue;
        }
        while let Err(why) = probe.write().await {
            health.set_failing(why.to_string());
            sleep(PROBE_INTERVAL).await;
        }
        health.set_healthy();
        sleep(PROBE_INTERVAL).await;
    }
}

/// The probe's connection, kept because each new one costs the server a process,
/// and the time at which it was opened.
struct Probe {
    options: PgConnectOptions,
    health: HealthReporter,
    connection: Option<(PgConnection, Instant)>,
}

impl Probe {
    /// Checks that the server responds on the open connection, and is writable.
    async fn is_writable(&mut self) -> bool {
        let Some((mut connection, opened)) = self.connection.take() else { return false };
        if opened.elapsed() >= SESSION_LIFETIME || self.health.has_discarded(opened.elapsed()) {
            return false;
        }
        let is_read_only = timeout(PROBE_TIMEOUT, session::is_read_only(&mut connection)).await;
        let writable = matches!(is_read_only, Ok(Ok(false)));
        self.connection = writable.then_some((connection, opened));
        writable
    }

    /// Writes, on a new connection if the old one is lost.
    async fn write(&mut self) -> Result<(), Error> {
        self.is_writable().await;
        let connection = self.connection.take();
        let write = async {
            let (mut connection, opened) = match connection {
                Some(connection) => connection,
                None => (PgConnection::connect_with(&self.options).await?, Instant::now()),
            };
            if session::is_read_only(&mut connection).await? {
                return Err(Error::Failing(READ_ONLY.to_owned()));
            }
            connection.execute("SET synchronous_commit = on").await?;
            connection.execute(WRITE).await?;
            Ok((connection, opened))
        };
        match timeout(PROBE_TIMEOUT, write).await {
            Ok(written) => {
                self.connection = Some(written?);
                Ok(())
            }
            Err(_) => Err(Error::Slow(PROBE_TIMEOUT)),
        }
    }
}
