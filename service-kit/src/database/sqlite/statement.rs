//! Statements that travel together.

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
    /// Whether it has failed when it touches no row.
    pub(super) must_touch: bool,
}

impl Statement {
    /// One without values.
    pub(super) fn plain(sql: &'static str) -> Self {
        Self { sql, values: Vec::new(), must_touch: false }
    }
}

/// What came back of several statements.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// How many rows each of them touched, as far as they were told.
    pub(super) touched: Vec<u64>,
    /// The rows of the last.
    pub(super) rows: Vec<SqliteRow>,
}

impl Answers {
    /// How many rows the last one touched.
    pub(super) fn count(&self) -> u64 {
        self.touched.last().copied().unwrap_or_default()
    }

    /// The rows of the last one.
    pub(super) fn into_rows(self) -> impl Iterator<Item = Row> {
        self.rows.into_iter().map(Row::Sqlite)
    }
}

/// Whether one of `statements`, which touched so many rows, should have touched
/// one and did not.
fn missed(statements: &[&Statement], touched: &[u64]) -> bool {
    touched.iter().zip(statements).any(|(touched, one)| one.must_touch && *touched == 0)
}

/// What became of a unit of work that was run with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    /// It has missed a row, and has touched none: there is nothing to undo.
    Void,
}

/// Runs statements in one round trip to the connection's thread, which runs
/// none after one that fails; the rows of the last come back, or only its first.
pub(super) async fn exchange(
    connection: &mut SqliteConnection,
    statements: &[&Statement],
    first_only: bool,
) -> Result<Answers, Error> {
    let mut answers = Answers::default();
    let told = bounded(tell(connection, statements, first_only, &mut answers)).await;
    match told {
        Err(why) if why.is_trouble() => Err(why),
        // Also when one after it failed: because of it, as a rule.
        _ if missed(statements, &answers.touched) => Err(Error::Missed),
        told => told.map(|()| answers),
    }
}

/// Runs units of work of `each` statements in one round trip. Fails when one of
/// them has failed and must be undone, which none of them can be alone.
pub(super) async fn exchange_units(
    connection: &mut SqliteConnection,
    statements: &[&Statement],
    each: usize,
) -> Result<Vec<Outcome>, Error> {
    let mut answers = Answers::default();
    bounded(tell(connection, statements, false, &mut answers)).await?;
    let units = statements.chunks(each).zip(answers.touched.chunks(each));
    let outcome = |(statements, touched)| match missed(statements, touched) {
        false => Ok(Outcome::Written),
        true if touched.iter().all(|rows| *rows == 0) => Ok(Outcome::Void),
        true => Err(Error::Missed),
    };
    units.map(outcome).collect()
}

async fn tell(
    connection: &mut SqliteConnection,
    statements: &[&Statement],
    first_only: bool,
    answers: &mut Answers,
) -> Result<(), sqlx::Error> {
    let last = statements.len().saturating_sub(1);
    let mut told = connection.fetch_many(together(statements));
    while let Some(one) = told.try_next().await? {
        match one {
            Either::Left(done) => answers.touched.push(done.rows_affected()),
            Either::Right(row) if answers.touched.len() == last => {
                answers.rows.push(row);
                if first_only {
                    break;
                }
            }
            // Those before the last have none to tell.
            Either::Right(_) => {}
        }
    }
    Ok(())
}

/// All of them as one: what the connection's thread runs without asking back,
/// up to the first that fails.
fn together(statements: &[&Statement]) -> Query<'static, Sqlite, SqliteArguments> {
    let query = match statements {
        [one] => sqlx::query(one.sql),
        // Safe because each of them is a text of this program.
        several => sqlx::query(AssertSqlSafe(joined(several))),
    };
    bind_to(query, statements.iter().flat_map(|statement| statement.values.iter().cloned()))
}

/// One text: the parameters of each statement count on from those before it.
/// A `$` before a digit is a parameter wherever it stands.
fn joined(statements: &[&Statement]) -> String {
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
                // Writing to a text does not fail.
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
    async fn a_unit_that_touched_nothing_needs_no_undoing() {
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
        let outcomes = exchange_units(&mut connection, &units, 2).await.unwrap();
        assert_eq!(outcomes, [Outcome::Written, Outcome::Written, Outcome::Void]);
        // What follows the missed row writes nevertheless.
        let careless = Statement::plain("INSERT INTO b SELECT 1");
        let units = [&more[0], &more[1], &one[0], &careless];
        let failed = exchange_units(&mut connection, &units, 2).await;
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
            joined(&all.each_ref()),
            "INSERT INTO a VALUES ($1, $2, '$.x');DELETE FROM b;UPDATE a SET x = $14 WHERE y = $3;"
        );
    }
}
