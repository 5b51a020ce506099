//! The schema version of a database.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::timeout;

use super::{Database, DatabaseUrl, Migration, Migrations, OpenError, migrate::schema_version};

/// The versions of a schema: numbers of migration steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The version of the database; 0 when it is empty or does not exist yet.
    pub current: i64,
    /// The newest version that this program knows.
    pub target: i64,
    /// The oldest version that a program may know to run on the database, once
    /// this one has migrated it.
    pub oldest_compatible: i64,
}

impl SchemaVersion {
    /// True when no step is missing.
    #[must_use]
    pub fn is_up_to_date(self) -> bool {
        self.current >= self.target
    }

    /// True when a newer program has migrated the database.
    #[must_use]
    pub fn is_newer(self) -> bool {
        self.current > self.target
    }

    /// True when a newer program has migrated the database, and this one cannot
    /// run on the result.
    #[must_use]
    pub fn is_too_new(self) -> bool {
        self.is_newer() && self.target < self.oldest_compatible
    }
}

const READ_TIMEOUT: Duration = Duration::from_secs(5);
const CURRENT: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations";
const OLDEST_COMPATIBLE: &str = "SELECT oldest FROM schema_compatibility WHERE version = $1";

/// The table with the oldest compatible version of each version.
pub(super) const CREATE_TABLE: &str =
    "CREATE TABLE IF NOT EXISTS schema_compatibility (version BIGINT PRIMARY KEY, oldest BIGINT NOT NULL)";
pub(super) const INSERT: &str =
    "INSERT INTO schema_compatibility (version, oldest) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING";

impl Database {
    /// Reads the schema version of the database at `url`, and changes nothing.
    ///
    /// # Errors
    /// When it cannot be opened; see [`open`](Self::open).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn version(url: &DatabaseUrl, migrations: &Migrations) -> Result<SchemaVersion, OpenError> {
        match url {
            DatabaseUrl::Sqlite(path) if !path.exists() => Ok(schema_version(migrations.sqlite, 0, None)),
            DatabaseUrl::Sqlite(path) => {
                let options =
                    SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(READ_TIMEOUT);
                let read = async {
                    let mut connection = options.connect().await?;
                    let version = of_sqlite(&mut connection, migrations.sqlite).await?;
                    connection.close().await?;
                    Ok(version)
                };
                read.await.map_err(|why| OpenError::sqlite(path, &why))
            }
            DatabaseUrl::Postgres(options) => {
                let read = async {
                    let mut connection = PgConnection::connect_with(options).await?;
                    let version = of_postgres(&mut connection, migrations.postgres).await?;
                    connection.close().await?;
                    Ok(version)
                };
                let read = timeout(READ_TIMEOUT, read)
                    .await
                    .map_err(|_| OpenError::timed_out(options, READ_TIMEOUT))?;
                read.map_err(|why| OpenError::postgres(options, &why))
            }
        }
    }
}

/// The schema version of a database, for a program that knows these steps.
pub(super) async fn of_sqlite(
    open: &mut SqliteConnection,
    steps: &[Migration],
) -> Result<SchemaVersion, sqlx::Error> {
    const HAS: &str = "SELECT COUNT(*) FROM sqlite_master WHERE name = $1";
    let (mut current, mut stored) = (0, None);
    if sqlx::query_scalar::<_, i64>(HAS).bind("_sqlx_migrations").fetch_one(&mut *open).await? > 0 {
        current = sqlx::query_scalar(CURRENT).fetch_one(&mut *open).await?;
    }
    if sqlx::query_scalar::<_, i64>(HAS).bind("schema_compatibility").fetch_one(&mut *open).await? > 0 {
        stored = sqlx::query_scalar(OLDEST_COMPATIBLE).bind(current).fetch_optional(&mut *open).await?;
    }
    Ok(schema_version(steps, current, stored))
}

/// The schema version of a database, for a program that knows these steps.
pub(super) async fn of_postgres(
    open: &mut PgConnection,
    steps: &[Migration],
) -> Result<SchemaVersion, sqlx::Error> {
    const HAS: &str =
        "SELECT COUNT(*) FROM pg_tables WHERE tablename = $1 AND schemaname = ANY(current_schemas(false))";
    let (mut current, mut stored) = (0, None);
    if sqlx::query_scalar::<_, i64>(HAS).bind("_sqlx_migrations").fetch_one(&mut *open).await? > 0 {
        current = sqlx::query_scalar(CURRENT).fetch_one(&mut *open).await?;
    }
    if sqlx::query_scalar::<_, i64>(HAS).bind("schema_compatibility").fetch_one(&mut *open).await? > 0 {
        stored = sqlx::query_scalar(OLDEST_COMPATIBLE).bind(current).fetch_optional(&mut *open).await?;
    }
    Ok(schema_version(steps, current, stored))
}
