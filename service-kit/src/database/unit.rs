//! A unit of work, and when it is run again.

use std::time::Duration;

use tokio::time::sleep;

use super::{Database, Error, Transaction};

/// How often work is tried that others are in the way of.
const TRIES: u32 = 8;
/// What the wait between two tries doubles from.
const WAIT: Duration = Duration::from_millis(1);

/// A unit of work; see [`Database::unit`]. The work may run more than once, so
/// it has no effect outside the transaction.
#[derive(Debug)]
pub struct Unit {
    database: Database,
    tries: u32,
}

impl Unit {
    pub(super) fn new(database: Database) -> Self {
        Self { database, tries: 0 }
    }

    /// Begins a try, after a pause when it is not the first.
    ///
    /// # Errors
    /// As [`Database::begin`].
    ///
    /// # Cancel safety
    /// As [`Database::begin`].
    pub async fn begin(&mut self) -> Result<Transaction, Error> {
        if self.tries > 0 {
            // Those that were in each other's way shall not meet again.
            sleep(WAIT.mul_f64(fastrand::f64() * f64::from(1 << self.tries))).await;
        }
        self.tries += 1;
        self.database.begin().await
    }

    /// Ends a try: commits work that succeeded, unless it has called
    /// [`Transaction::undo`], and undoes what failed. `None` when it shall be
    /// run again.
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
        let again = self.tries < TRIES;
        match done {
            Err(why) => {
                let conflict = open.is_conflicted();
                match open.rollback().await {
                    // The work failed because of what it read, perhaps, and
                    // that may never have been.
                    Err(undurable @ Error::Undurable(_)) => Some(Err(undurable.into())),
                    // It is undone whatever the database says.
                    _ => (!(conflict && again)).then_some(Err(why)),
                }
            }
            Ok(done) => match open.end().await {
                Err(why) if why.is_conflict() && again => None,
                ended => Some(ended.map(|()| done).map_err(E::from)),
            },
        }
    }
}
