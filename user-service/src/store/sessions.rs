//! Sessions: what a login leads to.
//!
//! A session has one refresh token that is good. Using it puts the next in its
//! place; whoever comes with another that names the session has one that is
//! used up, and ends it. So what is kept of a session is one row, however long
//! it lasts.

use std::{slice, time::Duration};

use service_kit::{
    database::{Error as DatabaseError, Transaction, Value},
    timestamp::Timestamp,
};

use super::{Account, BY_ID, CLEAN_BATCH, Store, failures, read};
use crate::{
    clock::after,
    domain::{User, UserId},
    hasher::Hash,
    limit::Subject,
    refresh::RefreshToken,
};

/// How long a refresh token is good for.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The most sessions of one account; the one that was not used for longest
/// makes room.
const MOST: i64 = 20;

/// Holds the account's row, so that no other password comes between: 0 when
/// one has.
const CONFIRM: &str = "UPDATE users SET password = $3 WHERE user_id = $1 AND password = $2";

const MAKE_ROOM: &str = "DELETE FROM sessions WHERE user_id = $1 AND session_id IN \
     (SELECT session_id FROM sessions WHERE user_id = $1 ORDER BY expire_time DESC, session_id \
      LIMIT 1000000 OFFSET $2)";

const BEGIN: &str = "INSERT INTO sessions (session_id, user_id, token, create_time, expire_time) \
     VALUES ($1, $2, $3, $4, $5)";

/// Waits for whoever uses the same token, and then finds it used up.
const USE_UP: &str = "UPDATE sessions SET token = $3, expire_time = $5 \
     WHERE session_id = $1 AND token = $2 AND expire_time > $4 RETURNING user_id";

const END: &str = "DELETE FROM sessions WHERE session_id = $1";

const END_ALL: &str = "DELETE FROM sessions WHERE user_id = $1";

const CLEAN: &str = "DELETE FROM sessions WHERE session_id IN \
     (SELECT session_id FROM sessions WHERE expire_time <= $1 LIMIT $2)";

impl Store {
    /// Begins a session of the account whose password was found right, which
    /// is kept as `kept` from now on, and forgets the logins of `subjects` that
    /// failed.
    /// `None` when the account has another password by now, or is gone.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have begun.
    pub async fn begin_session(
        &self,
        account: &Account,
        kept: &Hash,
        token: &RefreshToken,
        subjects: &[Subject],
        now: Timestamp,
    ) -> Result<Option<User>, DatabaseError> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = begin(&mut open, account, kept, token, subjects, now).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Uses up `token` and puts `next`, of the same session, in its place.
    /// Returns who has the session; `None` when the token is not good, and then
    /// the session that it names has ended.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been used up.
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

    /// Removes sessions whose token has expired, some of them; returns how
    /// many.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been removed.
    pub async fn clean_sessions(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let mut open = self.database.begin().await?;
        let removed = open.execute(CLEAN, &[now.micros().into(), CLEAN_BATCH.into()]).await?;
        open.commit().await?;
        Ok(removed)
    }
}

async fn begin(
    open: &mut Transaction,
    account: &Account,
    kept: &Hash,
    token: &RefreshToken,
    subjects: &[Subject],
    now: Timestamp,
) -> Result<Option<User>, DatabaseError> {
    let id: Value = account.user.id.to_string().into();
    let confirm = [id.clone(), account.password.as_str().into(), kept.as_str().into()];
    if open.execute(CONFIRM, &confirm).await? == 0 {
        open.set_rollback_only();
        return Ok(None);
    }
    open.execute(MAKE_ROOM, &[id.clone(), (MOST - 1).into()]).await?;
    let values = [
        token.session().into(),
        id.clone(),
        token.hash().into(),
        now.micros().into(),
        after(now, LIFETIME).micros().into(),
    ];
    open.execute(BEGIN, &values).await?;
    failures::forget(open, subjects).await?;
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
        after(now, LIFETIME).micros().into(),
    ];
    if let Some(row) = open.row(USE_UP, &values).await? {
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
