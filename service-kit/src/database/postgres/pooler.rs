//! Whether a connection is a session, or a pooler gives each of its
//! transactions to another.
//!
//! What is relied upon ends with the session: statements that are prepared,
//! `LISTEN`, `SET`, advisory locks. Behind a pooler in transaction mode they are
//! some other client's, or nobody's, now and then: a service would start, and
//! some of its calls fail. So it is found out first, by using them.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Executor, Postgres, Row,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::database::OpenError;

/// How long each of two connections may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all that is asked on them may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the processes are compared.
const ROUNDS: u32 = 5;
/// How long a notification may be under way.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);
const PID: &str = "SELECT pg_backend_pid() AS pid";

/// Refuses a server whose connections are no sessions.
pub(super) async fn refuse_shared_sessions(options: &PgConnectOptions) -> Result<(), OpenError> {
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
    let asking = timeout(ASK_TIMEOUT, has_own_process(&mut listener, &mut other, &channel));
    let is_session = match asking.await {
        Ok(Ok(own)) => own && hears(&mut listener).await,
        // What was meant for another.
        Ok(Err(sqlx::Error::Protocol(_))) => false,
        Ok(Err(why)) => return Err(failed(why)),
        // A pooler lets everybody in, and has the second wait for the first.
        Err(_) => return Err(OpenError::one_connection(options, ASK_TIMEOUT)),
    };
    if is_session { Ok(()) } else { Err(OpenError::shared_sessions(options)) }
}

/// Whether the listener's statements run in one process, although another
/// connection has a transaction in between; then notifies it. The statements
/// are not prepared, so that they succeed on any session.
async fn has_own_process(
    listener: &mut PgListener,
    other: &mut PoolConnection<Postgres>,
    channel: &str,
) -> Result<bool, sqlx::Error> {
    listener.listen(channel).await?;
    let own: i32 = listener.fetch_one(PID).await?.try_get("pid")?;
    for _ in 0..ROUNDS {
        other.execute("BEGIN").await?;
        // A pooler that was given the listener's session back gives it to the
        // other now, as a rule; and must then give the listener another.
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

/// Whether a notification comes to the listener: on a shared session it comes
/// to whoever uses that one just now, or to nobody. This is the proof; the
/// processes are looked at first since a stray notification may disturb others.
async fn hears(listener: &mut PgListener) -> bool {
    matches!(timeout(NOTIFY_TIMEOUT, listener.recv()).await, Ok(Ok(_)))
}
