//! Detects a pooler that runs each transaction of a connection on another session.
//!
//! A service relies on its session: prepared statements, `LISTEN`, `SET` and
//! advisory locks end with it. Behind a pooler in transaction mode they get lost
//! or reach another client: a service would start, and some of its calls fail.
//! They are therefore tried first.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Executor, Postgres, Row,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::database::OpenError;

/// The timeout of each of the two connections.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of all statements on them.
const STATEMENTS_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of comparisons of the server processes.
const ROUNDS: u32 = 5;
/// The timeout of a notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);
const PID: &str = "SELECT pg_backend_pid() AS pid";

/// Rejects a server whose connections share sessions.
pub(super) async fn reject_shared_sessions(options: &PgConnectOptions) -> Result<(), OpenError> {
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect_lazy_with(options.clone());
    let failed = |why| match why {
        sqlx::Error::PoolTimedOut => OpenError::one_connection(options, CONNECT_TIMEOUT),
        why => OpenError::postgres(options, &why),
    };
    let mut listener = PgListener::connect_with(&pool).await.map_err(failed)?;
    let mut other = pool.acquire().await.map_err(failed)?;
    let channel = format!("consort_{}", Uuid::new_v4().simple());
    let compared = timeout(STATEMENTS_TIMEOUT, has_own_process(&mut listener, &mut other, &channel));
    let is_session = match compared.await {
        Ok(Ok(own)) => own && receives_notification(&mut listener).await,
        // A response to another client's statement.
        Ok(Err(sqlx::Error::Protocol(_))) => false,
        Ok(Err(why)) => return Err(failed(why)),
        // A pooler accepts every connection, and the second waits for the first.
        Err(_) => return Err(OpenError::one_connection(options, STATEMENTS_TIMEOUT)),
    };
    if is_session { Ok(()) } else { Err(OpenError::shared_sessions(options)) }
}

/// Checks that the listener's statements run in one server process, although
/// another connection has a transaction in between; then notifies the listener.
/// The statements are not prepared, so that they succeed on any session.
async fn has_own_process(
    listener: &mut PgListener,
    other: &mut PoolConnection<Postgres>,
    channel: &str,
) -> Result<bool, sqlx::Error> {
    listener.listen(channel).await?;
    let own: i32 = listener.fetch_one(PID).await?.try_get("pid")?;
    for _ in 0..ROUNDS {
        other.execute("BEGIN").await?;
        // A pooler mostly gives the session that the listener has released to
        // the other connection now, and must then give the listener another.
        let others: i32 = other.fetch_one(PID).await?.try_get("pid")?;
        let is_own = others != own && listener.fetch_one(PID).await?.try_get::<i32, _>("pid")? == own;
        other.execute("ROLLBACK").await?;
        if !is_own {
            return Ok(false);
        }
    }
    // Safe because the name is made of digits and letters.
    other.execute(AssertSqlSafe(format!("NOTIFY {channel}"))).await?;
    Ok(true)
}

/// Checks that a notification reaches the listener: on a shared session it
/// reaches another client or none. This is the proof; the processes are compared
/// first since a stray notification may disturb others.
async fn receives_notification(listener: &mut PgListener) -> bool {
    matches!(timeout(NOTIFY_TIMEOUT, listener.recv()).await, Ok(Ok(_)))
}
