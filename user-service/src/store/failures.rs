//! Failed logins; see [`login_limit`](crate::login_limit).

use std::{slice, time::Duration};

use service_kit::{
    database::{Error as DatabaseError, Transaction, Value},
    timestamp::Timestamp,
};

use super::{CLEANUP_BATCH_SIZE, Store};
use crate::{
    clock::{before, between},
    login_limit::{FAILURE_RETENTION, FailureSubject},
};

/// The most subjects; of more, the oldest are deleted.
const MAX_SUBJECTS: i64 = 100_000;

const READ: &str = "SELECT failures, last_time FROM login_failures WHERE subject = $1";

const COUNT: &str = "INSERT INTO login_failures (subject, failures, last_time) VALUES ($1, 1, $2) \
     ON CONFLICT (subject) DO UPDATE SET last_time = excluded.last_time, failures = \
     CASE WHEN login_failures.last_time <= $3 THEN 1 ELSE login_failures.failures + 1 END";

const DELETE: &str = "DELETE FROM login_failures WHERE subject = $1";

const DELETE_RANGE: &str = "DELETE FROM login_failures WHERE subject >= $1 AND subject < $2";

const DELETE_OLD: &str = "DELETE FROM login_failures WHERE subject IN \
     (SELECT subject FROM login_failures WHERE last_time <= $1 LIMIT $2)";

const DELETE_EXCESS: &str = "DELETE FROM login_failures WHERE subject IN \
     (SELECT subject FROM login_failures ORDER BY last_time DESC, subject LIMIT $2 OFFSET $1)";

impl Store {
    /// The longest remaining backoff of `subjects`.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn backoff(
        &self,
        subjects: &[FailureSubject],
        now: Timestamp,
    ) -> Result<Duration, DatabaseError> {
        let mut longest = Duration::ZERO;
        for subject in subjects {
            let Some(row) = self.database.row(READ, &[subject.key().into()]).await? else { continue };
            let failures = row.get::<i64>("failures")?.try_into().unwrap_or(u32::MAX);
            let last = Timestamp::of_micros(row.get("last_time")?);
            longest = longest.max(subject.backoff(failures, between(last, now)));
        }
        Ok(longest)
    }

    /// Counts a failure of each of `subjects`.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been counted.
    pub async fn count_failure(
        &self,
        subjects: &[FailureSubject],
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let oldest = oldest_counted(now);
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = count(&mut open, subjects, now, oldest).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Deletes a batch of old rows, and a batch of the oldest rows above the limit;
    /// returns their number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been deleted.
    pub async fn delete_old_failures(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let mut open = self.database.begin().await?;
        let values = [oldest_counted(now).into(), CLEANUP_BATCH_SIZE.into()];
        let old = open.execute(DELETE_OLD, &values).await?;
        let excess = open.execute(DELETE_EXCESS, &[MAX_SUBJECTS.into(), CLEANUP_BATCH_SIZE.into()]).await?;
        open.commit().await?;
        Ok(old + excess)
    }
}

/// The time of the oldest failure that counts, in microseconds.
fn oldest_counted(now: Timestamp) -> i64 {
    before(now, FAILURE_RETENTION).micros()
}

async fn count(
    open: &mut Transaction,
    subjects: &[FailureSubject],
    now: Timestamp,
    oldest: i64,
) -> Result<(), DatabaseError> {
    // Always the account before the address, so that transactions do not deadlock.
    for subject in subjects {
        open.execute(COUNT, &[subject.key().into(), now.micros().into(), oldest.into()]).await?;
    }
    Ok(())
}

/// Deletes the failures of `subjects`, in the order of [`count`].
pub(super) async fn delete(open: &mut Transaction, subjects: &[FailureSubject]) -> Result<(), DatabaseError> {
    for subject in subjects {
        open.execute(DELETE, &[subject.key().into()]).await?;
    }
    Ok(())
}

/// Deletes the failures of `account`, from all addresses.
pub(super) async fn delete_all(
    open: &mut Transaction,
    account: &FailureSubject,
) -> Result<(), DatabaseError> {
    delete(open, slice::from_ref(account)).await?;
    open.execute(DELETE_RANGE, &account.key_range().map(Value::from)).await?;
    Ok(())
}
