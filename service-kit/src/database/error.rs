//! The errors of a database.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;
use tonic::Code;
use tracing::error;

use super::health::is_system_failure;
use crate::error::{Fault, internal};

/// The reason why a statement has no result. Violated constraints are none:
/// stores write so that a conflict is a count of rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is unreachable, busy or full; may pass by itself. A commit
    /// that ended so may have happened or not.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// A statement timed out.
    #[error("the database did not respond within {0:?}")]
    Slow(Duration),
    /// The disk or the server fails; nothing was attempted. Passes by itself when
    /// the cause does.
    #[error("the database cannot be written: {0}")]
    Failing(String),
    /// The shared commit failed: the writes may be there or not, and rows read in
    /// the transaction may never have been committed.
    #[error("a commit failed and may not be durable: {0}")]
    Undurable(String),
    /// An earlier statement of this transaction failed or was cancelled; the
    /// transaction was rolled back.
    #[error("the transaction was rolled back because one of its statements failed")]
    Aborted,
    /// A required row does not exist; see
    /// [`Transaction::require`](super::Transaction::require). The transaction was
    /// rolled back.
    #[error("a required row does not exist")]
    Missed,
    /// The statement or its result is not as the code expects.
    #[error("the database rejected a statement: {0}")]
    Unexpected(#[source] sqlx::Error),
    /// A stored value is not valid.
    #[error("the database holds an invalid {what}: {why}")]
    Corrupt {
        /// The name of the value.
        what: &'static str,
        /// The reason why it is not valid.
        why: String,
    },
}

impl Error {
    /// A stored value that is not valid.
    pub fn corrupt(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, why: why.to_string() }
    }

    /// True when the transaction failed only because of a concurrent one, or of a
    /// changed schema, and was rolled back: the same work may succeed now.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        // Serialization failure, deadlock.
        self.postgres().is_some_and(|error| matches!(error.code(), "40001" | "40P01") || is_stale_plan(error))
    }

    /// The error that PostgreSQL returned.
    fn postgres(&self) -> Option<&PgDatabaseError> {
        let (Self::Unavailable(error) | Self::Unexpected(error)) = self else { return None };
        error.as_database_error()?.try_downcast_ref()
    }

    /// True when PostgreSQL says that the session is over, is shared with others,
    /// leads to a server that is not the primary, or holds a prepared statement
    /// that no longer fits the schema.
    pub(super) fn ends_session(&self) -> bool {
        self.postgres().is_some_and(|error| ends_session(error.code()) || is_stale_plan(error))
    }

    /// True when SQLite says that another process is writing.
    pub(super) fn is_busy(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        let code =
            error.as_database_error().filter(|error| !is_postgres(*error)).and_then(|error| error.code());
        code.and_then(|code| sqlite_code(&code)).is_some_and(|code| matches!(code, 5 | 6))
    }

    /// True when the disk, the memory or the server failed, and not the
    /// statement: the next write will probably fail too.
    pub(super) fn is_system_failure(&self) -> bool {
        match self {
            Self::Unavailable(error) | Self::Unexpected(error) => is_system_failure(error),
            Self::Slow(_) | Self::Undurable(_) => true,
            Self::Failing(_) | Self::Aborted | Self::Missed | Self::Corrupt { .. } => false,
        }
    }

    /// The fault for the caller. Logs the cause.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unavailable(_) | Self::Slow(_) | Self::Failing(_) | Self::Undurable(_) | Self::Aborted => {
                error!(cause = %self, "{self}");
                let words = "the database is not available right now; try again";
                Fault::new(Code::Unavailable, "DATABASE_UNAVAILABLE", words)
            }
            Self::Unexpected(_) | Self::Corrupt { .. } | Self::Missed => internal(self),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if may_pass(&error) { Self::Unavailable(error) } else { Self::Unexpected(error) }
    }
}

fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => postgres_may_pass(error.code()) || is_stale_plan(error),
            None => error.code().and_then(|code| sqlite_code(&code)).is_some_and(sqlite_may_pass),
        },
        _ => false,
    }
}

pub(super) fn is_postgres(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some()
}

/// The primary code of an extended result code of SQLite.
pub(super) fn sqlite_code(code: &str) -> Option<i32> {
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN.
fn sqlite_may_pass(code: i32) -> bool {
    matches!(code, 5 | 6 | 8 | 10 | 13 | 14)
}

/// Lost connections (08), conflicts of transactions (40), resources (53), locks
/// (55), an operator's intervention (57), failing disks (58), and sessions that
/// are to be replaced.
fn postgres_may_pass(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "55" | "57" | "58")) || ends_session(code)
}

/// True when a statement was prepared before a column was added to what it
/// selects: the session rejects it from then on.
fn is_stale_plan(error: &PgDatabaseError) -> bool {
    error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery")
}

/// True when a session that returns this code must not be used again.
fn ends_session(code: &str) -> bool {
    match code {
        // Connection exceptions.
        _ if code.starts_with("08") => true,
        // A read-only server; sessions whose transaction was begun or aborted
        // by another client, as behind a pooler; those that the server ends
        // because they were idle in a transaction or took too long.
        "25006" | "25001" | "25P01" | "25P02" | "25P03" | "25P04" => true,
        // A prepared statement that does not exist, or existed before, as
        // behind a pooler.
        "26000" | "42P05" => true,
        // The server stops, has crashed or starts; the database was dropped; the
        // session was idle.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_session_is_unavailable_and_not_a_fault_of_the_statement() {
        for code in ["08006", "25006", "25P02", "25P03", "26000", "42P05", "57P01", "57P02", "57P03"] {
            assert!(ends_session(code) && postgres_may_pass(code), "{code}");
        }
        // A conflict, a time-out, a full disk: the session is as good as before.
        for code in ["40001", "40P01", "55P03", "57014", "53100", "23505", "42601", ""] {
            assert!(!ends_session(code), "{code}");
        }
    }
}
