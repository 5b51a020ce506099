//! Schema migrations.

use sqlx::{
    Connection, PgConnection, SqlSafeStr, SqliteConnection,
    migrate::{Migrate, MigrateError, MigrationType, Migrator},
};

use super::{SchemaVersion, version};

/// One step from a schema to the next. A released step never changes: the
/// database holds a checksum of its text.
///
/// A rolling upgrade has programs of two versions on one database. So a schema
/// changes in two releases: one adds tables and columns, and old programs keep
/// running (*expand*); a later one drops what only old programs needed, once
/// none of them is left (*contract*). The first line of a step's text says which
/// of both it does:
///
/// - `-- expand`: all programs that could run before it still can. It adds
///   tables, indexes, and columns that may be empty or have a default, and
///   expects rows without them from old programs. Statements must name their
///   columns: on SQLite a `SELECT *` that was prepared before a column was added
///   breaks its connection.
/// - `-- contract 2`: programs that lack the last two steps, this one included,
///   can still run. For example, it drops a column that no program uses since
///   the step before last.
/// - anything else: only programs that know it can run.
///
/// The oldest compatible version follows from all steps. The database holds it
/// beside the version, in `schema_compatibility`; an older program does not
/// start.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// A description in a few words.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

impl Migration {
    /// The number of last steps that a program may lack; `None` when any program
    /// may lack this one.
    fn compatible_steps(&self) -> Option<i64> {
        let first = self.sql.lines().next().unwrap_or_default();
        let kind = first.strip_prefix("--").unwrap_or_default().trim();
        if kind == "expand" {
            return None;
        }
        let steps = kind.strip_prefix("contract ").and_then(|steps| steps.trim().parse().ok());
        Some(steps.unwrap_or(0))
    }
}

/// The steps of a service's schema, in order, for each database.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: &'static [Migration],
    /// For PostgreSQL.
    pub postgres: &'static [Migration],
}

/// The versions of a database at version `current`, where `stored` is the oldest
/// compatible version that it holds.
pub(super) fn schema_version(steps: &[Migration], current: i64, stored: Option<i64>) -> SchemaVersion {
    let target = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    // A program that stores none has made no step that older ones can lack.
    let oldest_compatible =
        if current <= target { oldest_compatible(steps) } else { stored.unwrap_or(current) };
    SchemaVersion { current, target, oldest_compatible }
}

/// The oldest version that a program may know to run after these steps.
fn oldest_compatible(steps: &[Migration]) -> i64 {
    let versions = (1..).zip(steps);
    versions.fold(0, |oldest, (version, step)| match step.compatible_steps() {
        Some(steps) => oldest.max(version - steps.clamp(0, version)),
        None => oldest,
    })
}

/// The reason why a schema was not migrated.
#[derive(Debug)]
pub(super) enum MigrationError {
    /// A newer program has migrated the schema, and this one cannot run on it.
    TooNew(SchemaVersion),
    /// A step failed, or differs from the one that the database has run.
    Step(MigrateError),
}

impl<E: Into<MigrateError>> From<E> for MigrationError {
    fn from(why: E) -> Self {
        Self::Step(why.into())
    }
}

/// Runs the missing steps in the caller's transaction, which excludes other
/// writers.
pub(super) async fn sqlite(
    open: &mut SqliteConnection,
    migrations: &Migrations,
) -> Result<(), MigrationError> {
    let steps = migrations.sqlite;
    let version = version::of_sqlite(open, steps).await?;
    if version.is_too_new() {
        return Err(MigrationError::TooNew(version));
    }
    migrator(steps).run_direct(None, open, false).await?;
    if !version.is_newer() {
        sqlx::query(version::CREATE_TABLE).execute(&mut *open).await?;
        sqlx::query(version::INSERT)
            .bind(version.target)
            .bind(version.oldest_compatible)
            .execute(&mut *open)
            .await?;
    }
    Ok(())
}

/// Runs the missing steps under an advisory lock, all of them or none.
pub(super) async fn postgres(
    connection: &mut PgConnection,
    migrations: &Migrations,
) -> Result<(), MigrationError> {
    let steps = migrations.postgres;
    // Held until after the commit, so that the next holder sees its steps.
    connection.lock().await?;
    let mut open = connection.begin().await?;
    let version = version::of_postgres(&mut open, steps).await?;
    if version.is_too_new() {
        return Err(MigrationError::TooNew(version));
    }
    migrator(steps).run_direct(None, &mut *open, false).await?;
    if !version.is_newer() {
        sqlx::query(version::CREATE_TABLE).execute(&mut *open).await?;
        sqlx::query(version::INSERT)
            .bind(version.target)
            .bind(version.oldest_compatible)
            .execute(&mut *open)
            .await?;
    }
    open.commit().await?;
    Ok(connection.unlock().await?)
}

/// The steps as sqlx takes them. Those of a newer program are ignored.
fn migrator(steps: &'static [Migration]) -> Migrator {
    let migration = |(version, step): (i64, &Migration)| {
        let sql = step.sql.into_sql_str();
        sqlx::migrate::Migration::new(version, step.name.into(), MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations((1..).zip(steps).map(migration).collect());
    migrator.set_ignore_missing(true).set_locking(false);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oldest_of(steps: &[&'static str]) -> i64 {
        let steps: Vec<_> = steps.iter().map(|sql| Migration { name: "", sql }).collect();
        oldest_compatible(&steps)
    }

    #[test]
    fn a_step_that_says_nothing_shuts_older_programs_out() {
        assert_eq!(oldest_of(&[]), 0);
        assert_eq!(oldest_of(&["CREATE TABLE a (x BIGINT)"]), 1);
        assert_eq!(oldest_of(&["-- What is there.\nSELECT 1", "-- contract\nSELECT 1"]), 2);
        assert_eq!(oldest_of(&["SELECT 1", "-- contract some\nSELECT 1"]), 2);
    }

    #[test]
    fn a_step_that_expands_shuts_nobody_out_and_one_that_contracts_those_before() {
        assert_eq!(oldest_of(&["SELECT 1", "-- expand\nSELECT 1"]), 1);
        assert_eq!(oldest_of(&["SELECT 1", "-- expand\nSELECT 1", "-- contract 1\nSELECT 1"]), 2);
        // A later, more permissive step does not undo a stricter one.
        assert_eq!(oldest_of(&["SELECT 1", "SELECT 1", "-- contract 9\nSELECT 1"]), 2);
    }
}
