//! A unit of work, and its retries after conflicts.

use std::time::Duration;

use tokio::time::sleep;

use super::{Database, Error, Transaction};

/// The most attempts of work that conflicts with other transactions.
const MAX_ATTEMPTS: u32 = 8;
/// The base of the exponential backoff between attempts.
const BACKOFF_BASE: Duration = Duration::from_millis(1);

/// A unit of work; see [`Database::unit`]. The work may run more than once, so
/// it must have no effect outside the transaction.
#[derive(Debug)]
pub struct Unit {
    database: Database,
    attempts: u32,
}

impl Unit {
    pub(super) fn new(database: Database) -> Self {
        Self { database, attempts: 0 }
    }

    /// Begins an attempt, after a backoff when it is not the first.
    ///
    /// # Errors
    /// As [`Database::begin`].
    ///
    /// # Cancel safety
    /// As [`Database::begin`].
    pub async fn begin(&mut self) -> Result<Transaction, Error> {
        if self.attempts > 0 {
            // Random, so that the same transactions do not conflict again.
            sleep(BACKOFF_BASE.mul_f64(fastrand::f64() * f64::from(1 << self.attempts))).await;
        }
        self.attempts += 1;
        self.database.begin().await
    }

    /// Ends an attempt: commits work that succeeded, unless it has called
    /// [`Transaction::set_rollback_only`], and rolls back work that failed.
    /// Returns `None` when the work is to run again.
    ///
    /// When the commit itself fails with [`Error::Unavailable`] or
    /// [`Error::Slow`], it may have happened or not.
    ///
    /// # Cancel safety
    /// The work may have been committed or not.
    pub async fn end<T, E: From<Error>>(
        &self,
        open: Transaction,
        done: Result<T, E>,
    ) -> Option<Result<T, E>> {
        let may_retry = self.attempts < MAX_ATTEMPTS;
        match done {
            Err(why) => {
                let conflict = open.has_conflict();
                match open.rollback().await {
                    // The work may have failed because of rows that were never
                    // committed.
                    Err(undurable @ Error::Undurable(_)) => Some(Err(undurable.into())),
                    // It is rolled back even if the database reports an error.
                    _ => (!(conflict && may_retry)).then_some(Err(why)),
                }
            }
            Ok(done) => match open.end().await {
                Err(why) if why.is_conflict() && may_retry => None,
                ended => Some(ended.map(|()| done).map_err(E::from)),
            },
        }
    }
}
