//! The revocations of tokens.

use std::time::Duration;

use mesh_proto::shop::user::v1::Revocation;
use service_kit::{
    auth::{Claims, MAX_REVOCATIONS, digest_of},
    database::{Error as DatabaseError, Transaction},
    timestamp::Timestamp,
};

use super::{CLEANUP_BATCH_SIZE, Store};
use crate::{clock::before, domain::UserId};

const SECOND: i64 = 1_000_000;

/// Revokes the tokens of an account. A revocation never shortens an earlier one.
const REVOKE: &str = "INSERT INTO revocations (user_id, not_before, revoke_time) VALUES ($1, $2, $3) \
     ON CONFLICT (user_id) DO UPDATE SET revoke_time = excluded.revoke_time, not_before = \
     CASE WHEN excluded.not_before > revocations.not_before THEN excluded.not_before \
     ELSE revocations.not_before END";

const SINCE: &str = "SELECT user_id, not_before FROM revocations WHERE revoke_time > $1 \
     ORDER BY revoke_time DESC LIMIT $2";

const DELETE_OLD: &str = "DELETE FROM revocations WHERE user_id IN \
     (SELECT user_id FROM revocations WHERE revoke_time <= $1 LIMIT $2)";

impl Store {
    /// Reads the latest revocations of the time `age` before `now`.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn revocations(&self, now: Timestamp, age: Duration) -> Result<Vec<Revocation>, DatabaseError> {
        let limit = i64::try_from(MAX_REVOCATIONS).unwrap_or(i64::MAX);
        let rows = self.database.rows(SINCE, &[before(now, age).micros().into(), limit.into()]).await?;
        let read = |row: &service_kit::database::Row| {
            let subject = digest_of(&row.get::<String>("user_id")?);
            Ok(Revocation { subject, not_before: row.get("not_before")? })
        };
        rows.iter().map(read).collect()
    }

    /// Deletes a batch of revocations whose tokens have all expired; returns their
    /// number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been deleted.
    pub async fn delete_old_revocations(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let mut open = self.database.begin().await?;
        let oldest = before(now, 2 * Claims::MAX_LIFETIME);
        let deleted = open.execute(DELETE_OLD, &[oldest.micros().into(), CLEANUP_BATCH_SIZE.into()]).await?;
        open.commit().await?;
        Ok(deleted)
    }
}

/// Revokes the tokens of an account that were issued up to the second of `now`.
pub(super) async fn revoke(open: &mut Transaction, id: UserId, now: Timestamp) -> Result<(), DatabaseError> {
    revoke_before(open, id, now.micros() / SECOND + 1, now).await
}

/// Revokes all tokens of an account that gets no more, also those of a replica whose
/// clock is ahead.
pub(super) async fn revoke_all(
    open: &mut Transaction,
    id: UserId,
    now: Timestamp,
) -> Result<(), DatabaseError> {
    let ahead = i64::try_from(Claims::MAX_LIFETIME.as_secs()).unwrap_or(i64::MAX);
    revoke_before(open, id, (now.micros() / SECOND).saturating_add(ahead), now).await
}

async fn revoke_before(
    open: &mut Transaction,
    id: UserId,
    not_before: i64,
    now: Timestamp,
) -> Result<(), DatabaseError> {
    open.execute(REVOKE, &[id.to_string().into(), not_before.into(), now.micros().into()]).await?;
    Ok(())
}
