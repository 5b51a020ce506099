//! Which version of its schema a database has.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::timeout;

use super::{Database, DatabaseUrl, Migration, Migrations, OpenError, migrate::found};

/// The versions of a schema: how many steps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// Of the database; 0 when it is empty or not there yet.
    pub present: i64,
    /// That this program knows.
    pub wanted: i64,
    /// The oldest that a program may know to run on it, once this one has
    /// brought it up to date.
    pub oldest: i64,
}

impl SchemaVersion {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_up_to_date(self) -> bool {
        self.present >= self.wanted
    }

    /// Whether a newer program has been there.
    #[must_use]
    pub fn is_newer(self) -> bool {
        self.present > self.wanted
    }

    /// Whether a newer program has been there, and this one does not run on
    /// what it has made.
    #[must_use]
    pub fn is_too_new(self) -> bool {
        self.is_newer() && self.wanted < self.oldest
    }
}

const LIMIT: Duration = Duration::from_secs(5);
const PRESENT: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations";
const OLDEST: &str = "SELECT oldest FROM schema_compatibility WHERE version = $1";

/// Where it is written down, for a version, which one is the oldest that a
/// program may know.
pub(super) const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS schema_compatibility (version BIGINT PRIMARY KEY, oldest BIGINT NOT NULL)";
pub(super) const KEEP: &str =
    "INSERT INTO schema_compatibility (version, oldest) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING";

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
        match url {
            // What is not there will be made.
            DatabaseUrl::Sqlite(path) if !path.exists() => Ok(found(migrations.sqlite, 0, None)),
            DatabaseUrl::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(LIMIT);
                let look = async {
                    let mut connection = options.connect().await?;
                    let found = of_sqlite(&mut connection, migrations.sqlite).await?;
                    connection.close().await?;
                    Ok(found)
                };
                look.await.map_err(|why| OpenError::sqlite(path, &why))
            }
            DatabaseUrl::Postgres(options) => {
                let look = async {
                    let mut connection = PgConnection::connect_with(options).await?;
                    let found = of_postgres(&mut connection, migrations.postgres).await?;
                    connection.close().await?;
                    Ok(found)
                };
                let looked = timeout(LIMIT, look).await.map_err(|_| OpenError::silent(options, LIMIT))?;
                looked.map_err(|why| OpenError::postgres(options, &why))
            }
        }
    }
}

/// What a database has, for a program that knows these steps.
pub(super) async fn of_sqlite(
    open: &mut SqliteConnection,
    steps: &[Migration],
) -> Result<SchemaVersion, sqlx::Error> {
    const HAS: &str = "SELECT COUNT(*) FROM sqlite_master WHERE name = $1";
    let (mut present, mut kept) = (0, None);
    if sqlx::query_scalar::<_, i64>(HAS).bind("_sqlx_migrations").fetch_one(&mut *open).await? > 0 {
        present = sqlx::query_scalar(PRESENT).fetch_one(&mut *open).await?;
    }
    if sqlx::query_scalar::<_, i64>(HAS).bind("schema_compatibility").fetch_one(&mut *open).await? > 0 {
        kept = sqlx::query_scalar(OLDEST).bind(present).fetch_optional(&mut *open).await?;
    }
    Ok(found(steps, present, kept))
}

/// What a database has, for a program that knows these steps.
pub(super) async fn of_postgres(
    open: &mut PgConnection,
    steps: &[Migration],
) -> Result<SchemaVersion, sqlx::Error> {
    const HAS: &str =
        "SELECT COUNT(*) FROM pg_tables WHERE tablename = $1 AND schemaname = ANY(current_schemas(false))";
    let (mut present, mut kept) = (0, None);
    if sqlx::query_scalar::<_, i64>(HAS).bind("_sqlx_migrations").fetch_one(&mut *open).await? > 0 {
        present = sqlx::query_scalar(PRESENT).fetch_one(&mut *open).await?;
    }
    if sqlx::query_scalar::<_, i64>(HAS).bind("schema_compatibility").fetch_one(&mut *open).await? > 0 {
        kept = sqlx::query_scalar(OLDEST).bind(present).fetch_optional(&mut *open).await?;
    }
    Ok(found(steps, present, kept))
}
