//! Schemas, and how they come to be.

use sqlx::{
    PgConnection, SqlSafeStr, SqliteConnection,
    migrate::{MigrateError, MigrationType, Migrator},
};

/// One step from a schema to the next. Once released it never changes: its
/// text is kept in the database as a checksum.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// What it does, in a few words.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// The steps of a service's schema, in order, for each database.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: &'static [Migration],
    /// For PostgreSQL.
    pub postgres: &'static [Migration],
}

/// Runs what is missing, in the transaction that the caller holds: one writer
/// at a time is the lock.
pub(super) async fn sqlite(open: &mut SqliteConnection, migrations: &Migrations) -> Result<(), MigrateError> {
    migrator(migrations.sqlite).run_direct(None, open, false).await
}

/// Runs what is missing under an advisory lock.
pub(super) async fn postgres(
    connection: &mut PgConnection,
    migrations: &Migrations,
) -> Result<(), MigrateError> {
    migrator(migrations.postgres).run_direct(None, connection, false).await
}

fn migrator(steps: &'static [Migration]) -> Migrator {
    let migration = |(version, step): (i64, &Migration)| {
        let sql = step.sql.into_sql_str();
        sqlx::migrate::Migration::new(version, step.name.into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations((1..).zip(steps).map(migration).collect())
}
