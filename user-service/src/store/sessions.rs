//! Sessions, which begin with a login.
//!
//! A session has one valid refresh token. Using it replaces it by the next; another
//! token that names the session is an old one, and ends the session. So a session is
//! one row, however long it lasts.

use std::{slice, time::Duration};

use service_kit::{
    database::{Error as DatabaseError, Transaction, Value},
    timestamp::Timestamp,
};

use super::{Account, BY_ID, CLEANUP_BATCH_SIZE, Store, failures, read};
use crate::{
    clock::after,
    domain::{User, UserId},
    hasher::Hash,
    login_limit::FailureSubject,
    refresh::RefreshToken,
};

const REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The most sessions of one account; of more, the least recently used are deleted.
const MAX_SESSIONS: i64 = 20;

/// Locks the account's row, if the password is still the same.
const CONFIRM: &str = "UPDATE users SET password = $3 WHERE user_id = $1 AND password = $2";

const DELETE_EXCESS: &str = "DELETE FROM sessions WHERE user_id = $1 AND session_id IN \
     (SELECT session_id FROM sessions WHERE user_id = $1 ORDER BY expire_time DESC, session_id \
      LIMIT 1000000 OFFSET $2)";

const BEGIN: &str = "INSERT INTO sessions (session_id, user_id, token, create_time, expire_time) \
     VALUES ($1, $2, $3, $4, $5)";

/// Replaces a token, after waiting for another use of the same one, which makes it
/// invalid.
const ROTATE: &str = "UPDATE sessions SET token = $3, expire_time = $5 \
     WHERE session_id = $1 AND token = $2 AND expire_time > $4 RETURNING user_id";

const END: &str = "DELETE FROM sessions WHERE session_id = $1";

const END_ALL: &str = "DELETE FROM sessions WHERE user_id = $1";

const DELETE_EXPIRED: &str = "DELETE FROM sessions WHERE session_id IN \
     (SELECT session_id FROM sessions WHERE expire_time <= $1 LIMIT $2)";

impl Store {
    /// Begins a session of the account whose password was verified, stores the
    /// password as `hash`, and deletes the failed logins of `subjects`. Returns
    /// `None` when the account has another password by now, or was deleted.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have begun.
    pub async fn begin_session(
        &self,
        account: &Account,
        hash: &Hash,
        token: &RefreshToken,
        subjects: &[FailureSubject],
        now: Timestamp,
    ) -> Result<Option<User>, DatabaseError> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = begin(&mut open, account, hash, token, subjects, now).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Replaces `token` by `next`, of the same session. Returns the user of the
    /// session; `None` when the token is invalid, which ends the session that it
    /// names.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been replaced.
    pub async fn refresh(
        &self,
        token: &RefreshToken,
        next: &RefreshToken,
        now: Timestamp,
    ) -> Result<Option<User>, DatabaseError> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = refresh(&mut open, token, next, now).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Deletes a batch of expired sessions; returns their number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been deleted.
    pub async fn delete_old_sessions(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let mut open = self.database.begin().await?;
        let deleted = open.execute(DELETE_EXPIRED, &[now.micros().into(), CLEANUP_BATCH_SIZE.into()]).await?;
        open.commit().await?;
        Ok(deleted)
    }
}

async fn begin(
    open: &mut Transaction,
    account: &Account,
    hash: &Hash,
    token: &RefreshToken,
    subjects: &[FailureSubject],
    now: Timestamp,
) -> Result<Option<User>, DatabaseError> {
    let id: Value = account.user.id.to_string().into();
    let confirm = [id.clone(), account.password.as_str().into(), hash.as_str().into()];
    if open.execute(CONFIRM, &confirm).await? == 0 {
        open.set_rollback_only();
        return Ok(None);
    }
    open.execute(DELETE_EXCESS, &[id.clone(), (MAX_SESSIONS - 1).into()]).await?;
    let values = [
        token.session().into(),
        id.clone(),
        token.hash().into(),
        now.micros().into(),
        after(now, REFRESH_TOKEN_LIFETIME).micros().into(),
    ];
    open.execute(BEGIN, &values).await?;
    failures::delete(open, subjects).await?;
    user(open, id).await
}

async fn refresh(
    open: &mut Transaction,
    token: &RefreshToken,
    next: &RefreshToken,
    now: Timestamp,
) -> Result<Option<User>, DatabaseError> {
    let values = [
        token.session().into(),
        token.hash().into(),
        next.hash().into(),
        now.micros().into(),
        after(now, REFRESH_TOKEN_LIFETIME).micros().into(),
    ];
    if let Some(row) = open.row(ROTATE, &values).await? {
        let id = UserId::parse(&row.get::<String>("user_id")?);
        let id = id.map_err(|why| DatabaseError::corrupt("user_id", why))?;
        return user(open, id.to_string().into()).await;
    }
    if open.execute(END, &[token.session().into()]).await? == 0 {
        open.set_rollback_only();
    }
    Ok(None)
}

async fn user(open: &mut Transaction, id: Value) -> Result<Option<User>, DatabaseError> {
    let found = open.row(BY_ID, &[id]).await?;
    Ok(found.as_ref().map(read).transpose()?.map(|account| account.user))
}

/// Ends every session of an account.
pub(super) async fn end_all(open: &mut Transaction, id: &Value) -> Result<(), DatabaseError> {
    open.execute(END_ALL, slice::from_ref(id)).await?;
    Ok(())
}
