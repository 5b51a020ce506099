//! The pool of sessions on the server.

use std::{io, time::Duration};

use sqlx::{Connection, Executor, PgConnection, Row, postgres::PgPoolOptions};
use tokio::time::timeout;

use crate::database::health::HealthReporter;

const MAX_CONNECTIONS: u32 = 10;
/// The time to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum lifetime of a session: an address may lead to another server by
/// now, and the old server need not say so.
pub(crate) const SESSION_LIFETIME: Duration = Duration::from_secs(60);
/// The idle time after which a connection is pinged before use.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeouts on the server's side, so that a frozen replica holds no lock for
/// ever. Set by statements and not by start-up options, which poolers reject.
const BOUNDS: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
                      SET idle_in_transaction_session_timeout = '10s'; SELECT pg_is_in_recovery() AS standby";

const READ_ONLY: &str = "SHOW transaction_read_only";

/// The pool of sessions for the service's statements.
pub(super) fn pool(health: &HealthReporter) -> PgPoolOptions {
    let (on_acquire, on_release) = (health.clone(), health.clone());
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(SESSION_LIFETIME)
        .after_connect(|connection, _| Box::pin(begin(connection)))
        // A ping before each use would cost each call a round trip. Without any
        // a call would fail for each connection that a restart has cut.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let health = on_acquire.clone();
            Box::pin(async move {
                if meta.age >= SESSION_LIFETIME || health.has_discarded(meta.age) {
                    return Ok(false);
                }
                Ok(meta.idle_for < PING_AFTER_IDLE || ping(connection).await.is_ok())
            })
        })
        // A cancelled call leaves a statement behind. The pool waits for its end,
        // and on a silent connection would wait for ever.
        .after_release(move |connection, meta| {
            let health = on_release.clone();
            Box::pin(async move {
                if health.has_discarded(meta.age) {
                    return Ok(false);
                }
                ping(connection).await.map(|()| true)
            })
        })
}

/// Prepares a session. One on a standby is rejected: it may read old data, and
/// cannot write.
async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if connection.fetch_one(BOUNDS).await?.try_get("standby")? {
        return Err(sqlx::Error::Protocol("the server is a standby".to_owned()));
    }
    Ok(())
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let timed_out = |_| sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut));
    timeout(PING_TIMEOUT, connection.ping()).await.map_err(timed_out)?
}

/// Checks if the server is a standby or was set read-only. Both can begin while
/// a session lasts.
pub(super) async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let setting: String = connection.fetch_one(READ_ONLY).await?.try_get(0)?;
    Ok(setting == "on")
}
