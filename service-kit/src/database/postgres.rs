//! PostgreSQL: shared by the replicas on any machine.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{task::JoinHandle, time::timeout};

use super::{Migrations, OpenError, Pools, health::Told, migrate, url};
use crate::changes::{self, Changes};

mod probe;

/// How long the server may take to let us in.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
const CONNECTIONS: u32 = 10;
/// After how long unused a connection is asked whether it still lives.
const STALE: Duration = Duration::from_secs(1);

/// Bounds on the server's side, so that a replica that froze holds no lock for
/// ever. By statements and not by start-up options, which poolers refuse.
const BOUNDS: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
                      SET idle_in_transaction_session_timeout = '10s'";

pub(super) async fn open(
    options: &PgConnectOptions,
    migrations: &Migrations,
    changes: &Changes,
    health: &Told,
) -> Result<(Pools, JoinHandle<()>), OpenError> {
    let options = options.clone().application_name(env!("CARGO_PKG_NAME"));
    bring_up_to_date(&options, migrations).await?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .after_connect(|connection, _| Box::pin(async move { connection.execute(BOUNDS).await.map(drop) }))
        // Asking every time would cost each call a round trip. Never asking
        // would fail a call for each connection that a restart has cut.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < STALE || connection.ping().await.is_ok()) })
        })
        .connect_lazy_with(options.clone());
    let feed = {
        let listen = changes::listen_postgres(options.clone(), changes.clone());
        let watch = probe::watch(options, health.clone());
        tokio::spawn(async move {
            tokio::join!(listen, watch);
        })
    };
    Ok((Pools::Postgres(pool), feed))
}

/// On a connection of its own, since a migration may take longer than a
/// statement otherwise may.
async fn bring_up_to_date(options: &PgConnectOptions, migrations: &Migrations) -> Result<(), OpenError> {
    let connected = timeout(CONNECT, PgConnection::connect_with(options)).await;
    let mut connection = connected
        .map_err(|_| OpenError::silent(options, CONNECT))?
        .map_err(|why| OpenError::postgres(options, &why))?;
    connection.execute("SET lock_timeout = '60s'").await.map_err(|why| OpenError::postgres(options, &why))?;
    migrate::postgres(&mut connection, migrations)
        .await
        .map_err(|why| OpenError::migration(&url::shown(options), migrations.postgres.len(), &why))?;
    connection.close().await.map_err(|why| OpenError::postgres(options, &why))
}
