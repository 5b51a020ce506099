//! Which version of its schema a database has.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, PgConnection, SqliteConnection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};
use tokio::time::timeout;

use super::{Database, DatabaseUrl, Migrations, OpenError};

/// The versions of a schema: how many steps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// Of the database; 0 when it is empty or not there yet.
    pub present: i64,
    /// That this program knows.
    pub wanted: i64,
}

impl SchemaVersion {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_up_to_date(self) -> bool {
        self.present == self.wanted
    }

    /// Whether a newer program has been there.
    #[must_use]
    pub fn is_newer(self) -> bool {
        self.present > self.wanted
    }
}

const LIMIT: Duration = Duration::from_secs(5);
const PRESENT: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations";

impl Database {
    /// Looks which version of its schema the database at `url` has, and changes
    /// nothing.
    ///
    /// # Errors
    /// When it cannot be opened; see [`open`](Self::open).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn version(url: &DatabaseUrl, migrations: &Migrations) -> Result<SchemaVersion, OpenError> {
        let (present, wanted) = match url {
            DatabaseUrl::Sqlite(path) => {
                // What is not there will be made.
                let present = if path.exists() {
                    let options =
                        SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(LIMIT);
                    of_sqlite(&options).await.map_err(|why| OpenError::sqlite(path, &why))?
                } else {
                    0
                };
                (present, migrations.sqlite.len())
            }
            DatabaseUrl::Postgres(options) => {
                let present = timeout(LIMIT, of_postgres(options)).await;
                let present = present.map_err(|_| OpenError::silent(options, LIMIT))?;
                (present.map_err(|why| OpenError::postgres(options, &why))?, migrations.postgres.len())
            }
        };
        Ok(SchemaVersion { present, wanted: i64::try_from(wanted).unwrap_or(i64::MAX) })
    }
}

async fn of_sqlite(options: &SqliteConnectOptions) -> Result<i64, sqlx::Error> {
    let mut connection: SqliteConnection = options.connect().await?;
    let known = "SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
    let known: i64 = sqlx::query_scalar(known).fetch_one(&mut connection).await?;
    let present = if known == 0 { 0 } else { sqlx::query_scalar(PRESENT).fetch_one(&mut connection).await? };
    connection.close().await?;
    Ok(present)
}

async fn of_postgres(options: &PgConnectOptions) -> Result<i64, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let known = "SELECT COUNT(*) FROM pg_tables WHERE tablename = '_sqlx_migrations' AND schemaname = ANY(current_schemas(false))";
    let known: i64 = sqlx::query_scalar(known).fetch_one(&mut connection).await?;
    let present = if known == 0 { 0 } else { sqlx::query_scalar(PRESENT).fetch_one(&mut connection).await? };
    connection.close().await?;
    Ok(present)
}
