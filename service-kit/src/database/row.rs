//! Statements, their parameters and their rows.

use sqlx::{
    Decode, Encode, Postgres, Row as _, Sqlite, Type, postgres::PgRow, query::Query, sqlite::SqliteRow,
};

use super::Error;

/// A statement: one text for both databases, or one for each.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

impl Sql {
    /// A statement that the databases spell differently.
    #[must_use]
    pub const fn each(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres }
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self::each(text, text)
    }
}

/// A parameter: `$1` is the first. Columns are `BIGINT` (`INTEGER` on SQLite),
/// `TEXT` or `BYTEA` (`BLOB` on SQLite), never anything else.
#[derive(Clone, Debug)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Int(number.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// A statement and its values, as sqlx takes them.
pub(super) fn bind<'q, DB>(sql: &'static str, values: &[Value]) -> Query<'q, DB, DB::Arguments>
where
    DB: sqlx::Database,
    i64: Encode<'q, DB> + Type<DB>,
    String: Encode<'q, DB> + Type<DB>,
    Vec<u8>: Encode<'q, DB> + Type<DB>,
{
    bind_to(sqlx::query(sql), values.iter().cloned())
}

pub(super) fn bind_to<'q, DB>(
    query: Query<'q, DB, DB::Arguments>,
    values: impl IntoIterator<Item = Value>,
) -> Query<'q, DB, DB::Arguments>
where
    DB: sqlx::Database,
    i64: Encode<'q, DB> + Type<DB>,
    String: Encode<'q, DB> + Type<DB>,
    Vec<u8>: Encode<'q, DB> + Type<DB>,
{
    values.into_iter().fold(query, |query, value| match value {
        Value::Int(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

/// A row that was found.
#[derive(Debug)]
pub enum Row {
    /// In SQLite.
    Sqlite(SqliteRow),
    /// In PostgreSQL.
    Postgres(PgRow),
}

/// A type that a column can be read as: `i64`, `String`, `Vec<u8>`, or an
/// `Option` of them.
pub trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl Row {
    /// The value of a column.
    ///
    /// # Errors
    /// When there is no such column or it is something else.
    pub fn get<T: Column>(&self, column: &'static str) -> Result<T, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }
}
