//! Statements that are sent in one round trip.

use std::fmt::Write;

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Either, Executor, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::database::{Error, Row, Value, bounded, row::bind_to};

/// A statement with its values.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) sql: &'static str,
    pub(super) values: Vec<Value>,
    /// Fails when it touches no row.
    pub(super) must_touch: bool,
}

impl Statement {
    /// A statement without values.
    pub(super) fn plain(sql: &'static str) -> Self {
        Self { sql, values: Vec::new(), must_touch: false }
    }
}

/// The results of several statements.
#[derive(Debug, Default)]
pub(super) struct StatementResults {
    /// The number of rows that each statement touched, up to the first that failed.
    pub(super) touched: Vec<u64>,
    /// The rows of the last statement.
    pub(super) rows: Vec<SqliteRow>,
}

impl StatementResults {
    /// The number of rows that the last statement touched.
    pub(super) fn count(&self) -> u64 {
        self.touched.last().copied().unwrap_or_default()
    }

    /// The rows of the last statement.
    pub(super) fn into_rows(self) -> impl Iterator<Item = Row> {
        self.rows.into_iter().map(Row::Sqlite)
    }
}

/// True when one of `statements` had to touch a row and did not.
fn has_missed(statements: &[&Statement], touched: &[u64]) -> bool {
    touched.iter().zip(statements).any(|(touched, one)| one.must_touch && *touched == 0)
}

/// The outcome of a unit of work that was run with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnitOutcome {
    Written,
    /// A required row was missing, and nothing was written: there is nothing to
    /// roll back.
    NoEffect,
}

/// Runs statements in one round trip to the connection's thread, up to the first
/// that fails. Returns the rows of the last, or only the first row.
pub(super) async fn run_statements(
    connection: &mut SqliteConnection,
    statements: &[&Statement],
    first_only: bool,
) -> Result<StatementResults, Error> {
    let mut results = StatementResults::default();
    let fetched = bounded(fetch(connection, statements, first_only, &mut results)).await;
    match fetched {
        Err(error) if error.is_system_failure() => Err(error),
        // Also when a later statement failed, which the missed row mostly causes.
        _ if has_missed(statements, &results.touched) => Err(Error::Missed),
        fetched => fetched.map(|()| results),
    }
}

/// Runs units of work of `each` statements in one round trip. Fails when one of
/// them has failed and must be rolled back, which is possible for all of them only.
pub(super) async fn run_units(
    connection: &mut SqliteConnection,
    statements: &[&Statement],
    each: usize,
) -> Result<Vec<UnitOutcome>, Error> {
    let mut results = StatementResults::default();
    bounded(fetch(connection, statements, false, &mut results)).await?;
    let units = statements.chunks(each).zip(results.touched.chunks(each));
    let outcome = |(statements, touched)| match has_missed(statements, touched) {
        false => Ok(UnitOutcome::Written),
        true if touched.iter().all(|rows| *rows == 0) => Ok(UnitOutcome::NoEffect),
        true => Err(Error::Missed),
    };
    units.map(outcome).collect()
}

async fn fetch(
    connection: &mut SqliteConnection,
    statements: &[&Statement],
    first_only: bool,
    results: &mut StatementResults,
) -> Result<(), sqlx::Error> {
    let last = statements.len().saturating_sub(1);
    let mut stream = connection.fetch_many(combine(statements));
    while let Some(item) = stream.try_next().await? {
        match item {
            Either::Left(done) => results.touched.push(done.rows_affected()),
            Either::Right(row) if results.touched.len() == last => {
                results.rows.push(row);
                if first_only {
                    break;
                }
            }
            // Only the last statement returns rows.
            Either::Right(_) => {}
        }
    }
    Ok(())
}

/// Makes one query of several statements. The connection's thread runs it up to
/// the first statement that fails.
fn combine(statements: &[&Statement]) -> Query<'static, Sqlite, SqliteArguments> {
    let query = match statements {
        [one] => sqlx::query(one.sql),
        // Safe because each of them is a text of this program.
        several => sqlx::query(AssertSqlSafe(join_sql(several))),
    };
    bind_to(query, statements.iter().flat_map(|statement| statement.values.iter().cloned()))
}

/// Joins the texts: the parameters of each statement count on from those before
/// it. A `$` before a digit is a parameter wherever it stands.
fn join_sql(statements: &[&Statement]) -> String {
    let mut text = String::with_capacity(statements.iter().map(|one| one.sql.len() + 16).sum());
    let mut before = 0;
    for Statement { sql, values, .. } in statements {
        let mut parts = sql.split('$');
        text.extend(parts.next());
        for part in parts {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = part.split_at(digits);
            text.push('$');
            if let Ok(number) = number.parse::<usize>() {
                // Writing to a `String` does not fail.
                let _ = write!(text, "{}", number + before);
            }
            text.push_str(rest);
        }
        text.push(';');
        before += values.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    #[tokio::test]
    async fn a_unit_that_touched_nothing_needs_no_rollback() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for table in ["CREATE TABLE a (x INTEGER UNIQUE)", "CREATE TABLE b (x INTEGER)"] {
            sqlx::query(table).execute(&mut connection).await.unwrap();
        }
        let unit = |x| {
            let claim = "INSERT INTO a VALUES ($1) ON CONFLICT DO NOTHING";
            let claim = Statement { sql: claim, values: vec![Value::Int(x)], must_touch: true };
            [claim, Statement::plain("INSERT INTO b SELECT 1 WHERE changes() > 0")]
        };
        let [one, two, more] = [unit(1), unit(2), unit(3)];
        let units: Vec<_> = [&one, &two, &one].into_iter().flatten().collect();
        let outcomes = run_units(&mut connection, &units, 2).await.unwrap();
        assert_eq!(outcomes, [UnitOutcome::Written, UnitOutcome::Written, UnitOutcome::NoEffect]);
        // The statement after the missed row writes nevertheless.
        let unconditional = Statement::plain("INSERT INTO b SELECT 1");
        let units = [&more[0], &more[1], &one[0], &unconditional];
        let failed = run_units(&mut connection, &units, 2).await;
        assert!(matches!(failed, Err(Error::Missed)), "{failed:?}");
    }

    #[test]
    fn parameters_count_on_from_one_statement_to_the_next() {
        let statement =
            |sql, values: usize| Statement { sql, values: vec![Value::Int(0); values], must_touch: false };
        let all = [
            statement("INSERT INTO a VALUES ($1, $2, '$.x')", 2),
            statement("DELETE FROM b", 0),
            statement("UPDATE a SET x = $12 WHERE y = $1", 12),
        ];
        assert_eq!(
            join_sql(&all.each_ref()),
            "INSERT INTO a VALUES ($1, $2, '$.x');DELETE FROM b;UPDATE a SET x = $14 WHERE y = $3;"
        );
    }
}
