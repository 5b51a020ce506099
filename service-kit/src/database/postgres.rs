//! PostgreSQL: shared by the replicas on any machine.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{task::JoinHandle, time::timeout};

use super::{Migrations, OpenError, Pools, health::Told, migrate, url};
use crate::changes::{self, Changes};

mod pooler;
mod probe;
mod session;

pub(crate) use session::SESSION_LIFETIME;

/// How long the server may take to let us in.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn open(
    options: &PgConnectOptions,
    migrations: &Migrations,
    changes: &Changes,
    health: &Told,
) -> Result<(Pools, JoinHandle<()>), OpenError> {
    // Poolers refuse start-up options that they do not know, and no column is a
    // float.
    let options = options.clone().application_name(env!("CARGO_PKG_NAME")).extra_float_digits(None);
    let connection = connect(&options).await?;
    pooler::refuse_shared_sessions(&options).await?;
    bring_up_to_date(&options, connection, migrations).await?;
    let pool = session::pool(health).connect_lazy_with(options.clone());
    let feed = {
        let listen = changes::listen_postgres(options.clone(), changes.clone());
        let watch = probe::watch(options, health.clone());
        tokio::spawn(async move {
            tokio::join!(listen, watch);
        })
    };
    Ok((Pools::Postgres(pool), feed))
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, OpenError> {
    let connected = timeout(CONNECT, PgConnection::connect_with(options)).await;
    connected
        .map_err(|_| OpenError::silent(options, CONNECT))?
        .map_err(|why| OpenError::postgres(options, &why))
}

/// On a connection of its own, since a migration may take longer than a
/// statement otherwise may.
async fn bring_up_to_date(
    options: &PgConnectOptions,
    mut connection: PgConnection,
    migrations: &Migrations,
) -> Result<(), OpenError> {
    connection.execute("SET lock_timeout = '60s'").await.map_err(|why| OpenError::postgres(options, &why))?;
    migrate::postgres(&mut connection, migrations)
        .await
        .map_err(|why| OpenError::migration(&url::shown(options), &why))?;
    connection.close().await.map_err(|why| OpenError::postgres(options, &why))
}
