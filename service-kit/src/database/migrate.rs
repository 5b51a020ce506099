//! Schemas, and how they come to be.

use sqlx::{
    Connection, PgConnection, SqlSafeStr, SqliteConnection,
    migrate::{Migrate, MigrateError, MigrationType, Migrator},
};

use super::{SchemaVersion, version};

/// One step from a schema to the next. Once released it never changes: its
/// text is kept in the database as a checksum.
///
/// A rolling upgrade has programs of two versions on one database. So a schema
/// changes in two releases: one adds what is new, and programs of before run on
/// (*expand*); a later one takes away what they needed, once none of them is
/// left (*contract*). Which of both a step does is the first line of its text:
///
/// - `-- expand`: whichever program could run before it still can. It adds
///   tables, indexes, and columns that may be empty or have a default, and
///   expects rows without them from programs of before.
///   Their statements name their columns: on SQLite one of `SELECT *` that was
///   prepared before a column came breaks the connection that has it.
/// - `-- contract 2`: programs run on it that lack the last two steps, this one
///   included, or fewer. Say, it drops a column that the programs before the
///   step before last were the last to use.
/// - anything else: no program runs on it that does not know it.
///
/// What follows for all steps, the oldest version that a program may know, is
/// kept in the database beside the version, in `schema_compatibility`; an older
/// program does not start.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// What it does, in a few words.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

impl Migration {
    /// How many of the last steps a program may lack; `None` when this one does
    /// not matter to any.
    fn may_lack(&self) -> Option<i64> {
        let first = self.sql.lines().next().unwrap_or_default();
        let said = first.strip_prefix("--").unwrap_or_default().trim();
        if said == "expand" {
            return None;
        }
        let steps = said.strip_prefix("contract ").and_then(|steps| steps.trim().parse().ok());
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

/// The schema that these steps lead to, of a database at version `present` for
/// which `kept` is written down.
pub(super) fn found(steps: &[Migration], present: i64, kept: Option<i64>) -> SchemaVersion {
    let wanted = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    // What nothing is written down for was made by who did not know of it.
    let oldest = if present <= wanted { oldest(steps) } else { kept.unwrap_or(present) };
    SchemaVersion { present, wanted, oldest }
}

/// The oldest version that a program may know to run after these steps.
fn oldest(steps: &[Migration]) -> i64 {
    let versions = (1..).zip(steps);
    versions.fold(0, |oldest, (version, step)| match step.may_lack() {
        Some(steps) => oldest.max(version - steps.clamp(0, version)),
        None => oldest,
    })
}

/// Why a schema was not brought up to date.
#[derive(Debug)]
pub(super) enum NotMigrated {
    /// It is one that this program does not run on.
    TooNew(SchemaVersion),
    /// A step failed, or is not the one that was run.
    Step(MigrateError),
}

impl<E: Into<MigrateError>> From<E> for NotMigrated {
    fn from(why: E) -> Self {
        Self::Step(why.into())
    }
}

/// Runs what is missing, in the transaction that the caller holds: one writer
/// at a time is the lock.
pub(super) async fn sqlite(open: &mut SqliteConnection, migrations: &Migrations) -> Result<(), NotMigrated> {
    let steps = migrations.sqlite;
    let found = version::of_sqlite(open, steps).await?;
    if found.is_too_new() {
        return Err(NotMigrated::TooNew(found));
    }
    migrator(steps).run_direct(None, open, false).await?;
    if !found.is_newer() {
        sqlx::query(version::TABLE).execute(&mut *open).await?;
        sqlx::query(version::KEEP).bind(found.wanted).bind(found.oldest).execute(&mut *open).await?;
    }
    Ok(())
}

/// Runs what is missing under an advisory lock, all of it or nothing.
pub(super) async fn postgres(
    connection: &mut PgConnection,
    migrations: &Migrations,
) -> Result<(), NotMigrated> {
    let steps = migrations.postgres;
    // Until after the commit: who waits for it shall see what was done.
    connection.lock().await?;
    let mut open = connection.begin().await?;
    let found = version::of_postgres(&mut open, steps).await?;
    if found.is_too_new() {
        return Err(NotMigrated::TooNew(found));
    }
    migrator(steps).run_direct(None, &mut *open, false).await?;
    if !found.is_newer() {
        sqlx::query(version::TABLE).execute(&mut *open).await?;
        sqlx::query(version::KEEP).bind(found.wanted).bind(found.oldest).execute(&mut *open).await?;
    }
    open.commit().await?;
    Ok(connection.unlock().await?)
}

/// Steps that a newer program has made are its own affair.
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
        oldest(&steps)
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
        // One that is more generous opens no door that was shut before.
        assert_eq!(oldest_of(&["SELECT 1", "SELECT 1", "-- contract 9\nSELECT 1"]), 2);
    }
}
