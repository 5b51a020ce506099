//! Sessions on the server: when they are fit to be used, and when they end.

use std::{io, time::Duration};

use sqlx::{Connection, Executor, PgConnection, Row, postgres::PgPoolOptions};
use tokio::time::timeout;

use crate::database::health::Told;

const MAX_CONNECTIONS: u32 = 10;
/// How long to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a session is used: an address may have come to lead to
/// another server, and the one that it has left need not say so.
pub(crate) const SESSION_LIFETIME: Duration = Duration::from_secs(60);
/// After how long unused a connection is asked whether it still lives.
const STALE_AFTER: Duration = Duration::from_secs(1);
/// How long a connection may take to answer that it lives.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds on the server's side, so that a replica that froze holds no lock for
/// ever. By statements and not by start-up options, which poolers refuse.
const BOUNDS: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
                      SET idle_in_transaction_session_timeout = '10s'; SELECT pg_is_in_recovery() AS standby";

const READ_ONLY: &str = "SHOW transaction_read_only";

/// The pool of sessions that callers use.
pub(super) fn pool(health: &Told) -> PgPoolOptions {
    let (on_acquire, on_release) = (health.clone(), health.clone());
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(SESSION_LIFETIME)
        .after_connect(|connection, _| Box::pin(begin(connection)))
        // Asking every time would cost each call a round trip. Never asking
        // would fail a call for each connection that a restart has cut.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let health = on_acquire.clone();
            Box::pin(async move {
                if meta.age >= SESSION_LIFETIME || health.has_discarded(meta.age) {
                    return Ok(false);
                }
                Ok(meta.idle_for < STALE_AFTER || ping(connection).await.is_ok())
            })
        })
        // A caller that gave up leaves a statement behind. The pool waits for
        // its end, and on a connection that fell silent would wait for ever.
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

/// Prepares a session. One on a standby is refused: what it reads may be old,
/// and it can write nothing.
async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if connection.fetch_one(BOUNDS).await?.try_get("standby")? {
        return Err(sqlx::Error::Protocol("the server is a standby".to_owned()));
    }
    Ok(())
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let silent = |_| sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut));
    timeout(PING_TIMEOUT, connection.ping()).await.map_err(silent)?
}

/// Whether the server takes no writes: it is a standby, or was set read-only.
/// Both can begin while a session lasts.
pub(super) async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let answer: String = connection.fetch_one(READ_ONLY).await?.try_get(0)?;
    Ok(answer == "on")
}
