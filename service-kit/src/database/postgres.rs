//! PostgreSQL: one server, shared by replicas on any machine.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{task::JoinHandle, time::timeout};

use super::{Migrations, OpenError, Pools, health::HealthReporter, migrate, url};
use crate::changes::{self, Changes};

mod pooler;
mod probe;
mod session;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn open(
    options: &PgConnectOptions,
    migrations: &Migrations,
    changes: &Changes,
    health: &HealthReporter,
) -> Result<(Pools, JoinHandle<()>), OpenError> {
    // Without `extra_float_digits`, since poolers reject start-up options that
    // they do not know, and no column is a float.
    let options = options.clone().application_name(env!("CARGO_PKG_NAME")).extra_float_digits(None);
    let connection = connect(&options).await?;
    pooler::reject_shared_sessions(&options).await?;
    migrate(&options, connection, migrations).await?;
    let pool = session::pool(health).connect_lazy_with(options.clone());
    let feed = {
        let listen = changes::listen_postgres(options.clone(), session::SESSION_LIFETIME, changes.clone());
        let watch = probe::watch(options, health.clone());
        tokio::spawn(async move {
            tokio::join!(listen, watch);
        })
    };
    Ok((Pools::Postgres(pool), feed))
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, OpenError> {
    let connected = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await;
    connected
        .map_err(|_| OpenError::timed_out(options, CONNECT_TIMEOUT))?
        .map_err(|why| OpenError::postgres(options, &why))
}

/// Migrates on a connection of its own, since a migration may take longer than
/// the statements of a service.
async fn migrate(
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
