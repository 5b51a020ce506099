//! Logins that failed; see [`limit`](crate::limit).

use std::{slice, time::Duration};

use service_kit::{
    database::{Error as DatabaseError, Transaction, Value},
    timestamp::Timestamp,
};

use super::{CLEAN_BATCH, Store};
use crate::{
    clock::between,
    limit::{FORGOTTEN, Subject},
};

/// The most subjects that are remembered; the longest-standing make room.
const MOST: i64 = 100_000;

const LOOK: &str = "SELECT failures, last_time FROM login_failures WHERE subject = $1";

const COUNT: &str = "INSERT INTO login_failures (subject, failures, last_time) VALUES ($1, 1, $2) \
     ON CONFLICT (subject) DO UPDATE SET last_time = excluded.last_time, failures = \
     CASE WHEN login_failures.last_time <= $3 THEN 1 ELSE login_failures.failures + 1 END";

const FORGET: &str = "DELETE FROM login_failures WHERE subject = $1";

const FORGET_ALL: &str = "DELETE FROM login_failures WHERE subject >= $1 AND subject < $2";

const CLEAN: &str = "DELETE FROM login_failures WHERE subject IN \
     (SELECT subject FROM login_failures WHERE last_time <= $1 LIMIT $2)";

const MAKE_ROOM: &str = "DELETE FROM login_failures WHERE subject IN \
     (SELECT subject FROM login_failures ORDER BY last_time DESC, subject LIMIT $2 OFFSET $1)";

impl Store {
    /// How long none of `subjects` is heard.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&self, subjects: &[Subject], now: Timestamp) -> Result<Duration, DatabaseError> {
        let mut longest = Duration::ZERO;
        for subject in subjects {
            let Some(row) = self.database.row(LOOK, &[subject.key().into()]).await? else { continue };
            let failures = row.get::<i64>("failures")?.try_into().unwrap_or(u32::MAX);
            let last = Timestamp::of_micros(row.get("last_time")?);
            longest = longest.max(subject.wait(failures, between(last, now)));
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
    pub async fn count_failure(&self, subjects: &[Subject], now: Timestamp) -> Result<(), DatabaseError> {
        let forgotten = now.micros().saturating_sub(FORGOTTEN.as_micros().try_into().unwrap_or(i64::MAX));
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = count(&mut open, subjects, now, forgotten).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Removes what is forgotten, and the oldest of what is too much, some of
    /// it; returns how much.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been removed.
    pub async fn clean_failures(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let forgotten = now.micros().saturating_sub(FORGOTTEN.as_micros().try_into().unwrap_or(i64::MAX));
        let mut open = self.database.begin().await?;
        let old = open.execute(CLEAN, &[forgotten.into(), CLEAN_BATCH.into()]).await?;
        let many = open.execute(MAKE_ROOM, &[MOST.into(), CLEAN_BATCH.into()]).await?;
        open.commit().await?;
        Ok(old + many)
    }
}

async fn count(
    open: &mut Transaction,
    subjects: &[Subject],
    now: Timestamp,
    forgotten: i64,
) -> Result<(), DatabaseError> {
    // Always the account before the address, with or without the other: no two
    // wait for each other.
    for subject in subjects {
        open.execute(COUNT, &[subject.key().into(), now.micros().into(), forgotten.into()]).await?;
    }
    Ok(())
}

/// In the order in which [`count`] takes them.
pub(super) async fn forget(open: &mut Transaction, subjects: &[Subject]) -> Result<(), DatabaseError> {
    for subject in subjects {
        open.execute(FORGET, &[subject.key().into()]).await?;
    }
    Ok(())
}

/// Forgets those of `account` from whatever address too.
pub(super) async fn forget_all(open: &mut Transaction, account: &Subject) -> Result<(), DatabaseError> {
    forget(open, slice::from_ref(account)).await?;
    open.execute(FORGET_ALL, &account.range_from_anywhere().map(Value::from)).await?;
    Ok(())
}
