//! What a database can answer instead of a result.

use std::time::Duration;

use tonic::Code;
use tracing::error;

use super::health::is_trouble;
use crate::error::{Fault, internal};

/// Why a statement has no result. Violated constraints do not show here:
/// stores write so that a conflict is a count of rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is away, busy or full; may pass by itself. A commit that
    /// ended so may have happened or not.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the time that a statement may take.
    #[error("the database did not answer within {0:?}")]
    Slow(Duration),
    /// The disk or the server fails; nothing was tried. Passes by itself when
    /// the cause does.
    #[error("the database cannot be written: {0}")]
    Failing(String),
    /// The commit failed that this was part of: what was written may be there
    /// or not, and what was read in the transaction may never have been.
    #[error("a commit failed and may not be durable: {0}")]
    Undurable(String),
    /// A statement of this transaction failed or was cancelled before; nothing
    /// of it was done.
    #[error("the transaction was given up after a statement of it had failed")]
    GivenUp,
    /// A row that had to be there was not; see
    /// [`Transaction::require`](super::Transaction::require). Nothing of the
    /// transaction was done.
    #[error("a row that had to be there was not")]
    Missed,
    /// The statement or what it found is not as the code expects.
    #[error("the database refused a statement: {0}")]
    Unexpected(#[source] sqlx::Error),
    /// A stored value is not valid.
    #[error("the database holds an invalid {what}: {why}")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why it is not valid.
        why: String,
    },
}

impl Error {
    /// A stored value that is not valid.
    pub fn corrupt(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, why: why.to_string() }
    }

    /// Whether it failed only because another transaction was under way, and
    /// was undone: the same work may succeed now.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let (Self::Unavailable(error) | Self::Unexpected(error)) = self else { return false };
        let code =
            error.as_database_error().filter(|error| is_postgres(*error)).and_then(|error| error.code());
        // Serialization failure, deadlock.
        matches!(code.as_deref(), Some("40001" | "40P01"))
    }

    /// Whether SQLite says that another process is writing.
    pub(super) fn is_busy(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        let code =
            error.as_database_error().filter(|error| !is_postgres(*error)).and_then(|error| error.code());
        code.and_then(|code| sqlite_code(&code)).is_some_and(|code| matches!(code, 5 | 6))
    }

    /// Whether the disk, the memory or the server failed, and not the
    /// statement: whoever writes next will probably fail too.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::Unavailable(why) | Self::Unexpected(why) => is_trouble(why),
            Self::Slow(_) | Self::Undurable(_) => true,
            Self::Failing(_) | Self::GivenUp | Self::Missed | Self::Corrupt { .. } => false,
        }
    }

    /// What a caller is told. Logs the cause.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unavailable(_) | Self::Slow(_) | Self::Failing(_) | Self::Undurable(_) | Self::GivenUp => {
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
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            if is_postgres(error.as_ref()) {
                postgres_may_pass(&code)
            } else {
                sqlite_code(&code).is_some_and(sqlite_may_pass)
            }
        }
        _ => false,
    }
}

pub(super) fn is_postgres(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some()
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
/// (55), an operator's intervention (57), failing disks (58), and a server that
/// is a standby for now.
fn postgres_may_pass(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "55" | "57" | "58")) || code == "25006"
}
