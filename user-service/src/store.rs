//! The store of accounts.

use std::slice;

use mesh_proto::shop::events::v1::{UserDeleted, event::Payload};
use service_kit::{
    auth::{Role, Roles},
    database::{Database, Error as DatabaseError, Row, Transaction, Value},
    events::Outbox,
    timestamp::Timestamp,
    value::Etag,
};

use crate::{
    Error, access,
    domain::{DisplayName, Email, User, UserId, read_roles, written_roles},
    encryption::EncryptionKeys,
    hasher::Hash,
    login_limit::FailureSubject,
};

mod failures;
mod keys;
mod notifications;
mod revocations;
mod sessions;

pub use keys::StoredKey;
pub use notifications::StoredNotification;
pub(crate) use notifications::notify;

/// The most rows of a kind that one transaction deletes.
pub(crate) const CLEANUP_BATCH_SIZE: i64 = 1_000;

const BY_ID: &str = "SELECT u.user_id, e.email, u.display_name, u.roles, u.password, u.create_time, \
     u.update_time, u.version FROM users u JOIN emails e ON e.user_id = u.user_id WHERE u.user_id = $1";

const BY_EMAIL: &str = "SELECT u.user_id, e.email, u.display_name, u.roles, u.password, u.create_time, \
     u.update_time, u.version FROM users u JOIN emails e ON e.user_id = u.user_id WHERE e.email = $1";

const INSERT: &str = "INSERT INTO users \
     (user_id, display_name, roles, password, create_time, update_time, version) \
     VALUES ($1, $2, $3, $4, $5, $5, 1)";

/// Claims an address, after waiting for another transaction that claims it.
const CLAIM_EMAIL: &str =
    "INSERT INTO emails (email, user_id) VALUES ($1, $2) ON CONFLICT (email) DO NOTHING";

const RELEASE_EMAIL: &str = "DELETE FROM emails WHERE user_id = $1";

const LOCK: &str = "UPDATE users SET version = version WHERE user_id = $1";

const UPDATE: &str = "UPDATE users SET display_name = $2, roles = $3, password = $4, update_time = $5, \
     version = version + 1 WHERE user_id = $1";

const DELETE: &str = "DELETE FROM users WHERE user_id = $1 RETURNING version";

const RECORD_DELETED: &str = "INSERT INTO deleted_users (user_id, delete_time) VALUES ($1, $2)";

/// The accounts, sessions, keys and notifications in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    outbox: Outbox,
    encryption_keys: EncryptionKeys,
}

/// An account with its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account.
    pub user: User,
    /// The hash of the password.
    pub password: Hash,
}

/// A change of an account.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The person who requests it, whose account must allow it when it is made;
    /// `None` when no person does.
    pub by: Option<UserId>,
    /// The new address.
    pub email: Option<Email>,
    /// The new name.
    pub display_name: Option<DisplayName>,
    /// The new roles.
    pub roles: Option<Roles>,
    /// The new password, hashed. It ends every session.
    pub password: Option<Hash>,
}

impl Store {
    /// The store in `database`; the events of deleted accounts go to `outbox`.
    #[must_use]
    pub fn new(database: Database, outbox: Outbox) -> Self {
        Self { database, outbox, encryption_keys: EncryptionKeys::none() }
    }

    /// The same store, which encrypts signing keys under these keys.
    #[must_use]
    pub fn encrypted_under(self, encryption_keys: EncryptionKeys) -> Self {
        Self { encryption_keys, ..self }
    }

    /// Reads the account of that id.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, id: UserId) -> Result<Option<Account>, DatabaseError> {
        let row = self.database.row(BY_ID, &[id.to_string().into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads the account of that address.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn find(&self, email: &Email) -> Result<Option<Account>, DatabaseError> {
        let row = self.database.row(BY_EMAIL, &[email.as_str().into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// Adds an account.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn create(&self, account: &Account) -> Result<(), Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = create(&mut open, account).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Changes an account, provided that it still has the version `seen` and, if
    /// given, the verified password `proven`. A change that is made already has no
    /// effect, so that it can be repeated.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::EmailTaken`],
    /// [`Error::Refused`] when [`Change::by`] may not make it,
    /// [`Error::Database`].
    ///
    /// # Cancel safety
    /// The change may have been made.
    pub async fn update(
        &self,
        id: UserId,
        seen: Option<Etag>,
        proven: Option<&Hash>,
        change: &Change,
        now: Timestamp,
    ) -> Result<User, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = update(&mut open, id, seen, proven, change, now).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Deletes an account with all data of its owner, and appends the event. Deleting
    /// an unknown account succeeds. `by` is the person who requests it, if one does.
    ///
    /// # Errors
    /// [`Error::Refused`] when `by` may not, [`Error::Database`].
    ///
    /// # Cancel safety
    /// It may have been deleted.
    pub async fn delete(&self, id: UserId, by: Option<UserId>, now: Timestamp) -> Result<(), Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = delete(&mut open, self.outbox, id, by, now).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }
}

async fn create(open: &mut Transaction, account: &Account) -> Result<(), Error> {
    let Account { user, password } = account;
    let id: Value = user.id.to_string().into();
    let values = [
        id.clone(),
        user.display_name.as_str().into(),
        written_roles(user.roles).into(),
        password.as_str().into(),
        user.created.micros().into(),
    ];
    open.execute(INSERT, &values).await?;
    claim_email(open, id, &user.email).await
}

async fn claim_email(open: &mut Transaction, id: Value, email: &Email) -> Result<(), Error> {
    match open.execute(CLAIM_EMAIL, &[email.as_str().into(), id]).await? {
        0 => Err(Error::EmailTaken),
        _ => Ok(()),
    }
}

async fn update(
    open: &mut Transaction,
    id: UserId,
    seen: Option<Etag>,
    proven: Option<&Hash>,
    change: &Change,
    now: Timestamp,
) -> Result<User, Error> {
    let Some(Account { user: before, password }) = lock_for(open, change.by, id).await? else {
        return Err(Error::NotFound(id));
    };
    if change.roles.is_some() && change.by == Some(id) && !before.roles.contains(Role::Admin) {
        return Err(access::only_admins_give_roles().into());
    }
    let mut user = before.clone();
    user.email = change.email.clone().unwrap_or(user.email);
    user.display_name = change.display_name.clone().unwrap_or(user.display_name);
    user.roles = change.roles.unwrap_or(user.roles);
    let is_done = user == before && change.password.is_none();
    if !seen.is_none_or(|seen| seen == before.etag || (is_done && before.etag.follows(seen))) {
        return Err(Error::Changed);
    }
    if proven.is_some_and(|proven| *proven != password) {
        return Err(Error::Changed);
    }
    if is_done {
        open.set_rollback_only();
        return Ok(before);
    }
    user.etag = before.etag.next();
    user.updated = now;
    write(open, &user, change.password.as_ref().unwrap_or(&password)).await?;
    let id: Value = id.to_string().into();
    if user.email != before.email {
        open.execute(RELEASE_EMAIL, slice::from_ref(&id)).await?;
        claim_email(open, id.clone(), &user.email).await?;
    }
    if change.password.is_some() {
        sessions::end_all(open, &id).await?;
    }
    if has_lost(before.roles, user.roles) {
        revocations::revoke(open, user.id, now).await?;
    }
    Ok(user)
}

/// True when the new roles allow fewer methods than those before. The methods of
/// customers need an account only.
fn has_lost(before: Roles, roles: Roles) -> bool {
    let has = |roles: Roles, role| roles.contains(role) || roles.contains(Role::Admin);
    [Role::Staff, Role::Admin].into_iter().any(|role| has(before, role) && !has(roles, role))
}

/// Locks and reads the account `id` for a change that `by` requests. Their token may
/// be older than the loss of their role, so the roles in their own row count; it is
/// locked too, so that a role cannot be lost before this commits. Rows are locked in
/// the order of their ids, so that two admins who change each other do not deadlock.
async fn lock_for(open: &mut Transaction, by: Option<UserId>, id: UserId) -> Result<Option<Account>, Error> {
    let Some(by) = by.filter(|by| *by != id) else { return Ok(lock(open, id).await?) };
    let (actor, account) = if by < id {
        (lock(open, by).await?, lock(open, id).await?)
    } else {
        let account = lock(open, id).await?;
        (lock(open, by).await?, account)
    };
    if actor.is_some_and(|actor| actor.user.roles.contains(Role::Admin)) {
        Ok(account)
    } else {
        Err(access::not_owner().into())
    }
}

async fn lock(open: &mut Transaction, id: UserId) -> Result<Option<Account>, DatabaseError> {
    let id: Value = id.to_string().into();
    open.execute(LOCK, slice::from_ref(&id)).await?;
    open.row(BY_ID, &[id]).await?.as_ref().map(read).transpose()
}

async fn write(open: &mut Transaction, user: &User, password: &Hash) -> Result<(), DatabaseError> {
    let values = [
        user.id.to_string().into(),
        user.display_name.as_str().into(),
        written_roles(user.roles).into(),
        password.as_str().into(),
        user.updated.micros().into(),
    ];
    open.execute(UPDATE, &values).await?;
    Ok(())
}

async fn delete(
    open: &mut Transaction,
    outbox: Outbox,
    user: UserId,
    by: Option<UserId>,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(account) = lock_for(open, by, user).await? else {
        open.set_rollback_only();
        return Ok(());
    };
    let id: Value = user.to_string().into();
    open.execute(RECORD_DELETED, &[id.clone(), now.micros().into()]).await?;
    sessions::end_all(open, &id).await?;
    revocations::revoke_all(open, user, now).await?;
    notifications::delete(open, &id).await?;
    failures::delete_all(open, &FailureSubject::account(&account.user.email)).await?;
    open.execute(RELEASE_EMAIL, slice::from_ref(&id)).await?;
    let Some(row) = open.row(DELETE, &[id]).await? else { return Ok(()) };
    let version = row.get::<i64>("version")?;
    let deleted = UserDeleted { user_id: user.to_string() };
    Ok(outbox.append(open, &user.to_string(), version + 1, Payload::UserDeleted(deleted)).await?)
}

fn read(row: &Row) -> Result<Account, DatabaseError> {
    let text = |column| row.get::<String>(column);
    let time = |column| row.get(column).map(Timestamp::of_micros);
    let corrupt = DatabaseError::corrupt;
    let user = User {
        id: UserId::parse(&text("user_id")?).map_err(|why| corrupt("user_id", why))?,
        email: Email::parse(&text("email")?).map_err(|why| corrupt("email", why))?,
        display_name: DisplayName::parse(&text("display_name")?)
            .map_err(|why| corrupt("display_name", why))?,
        roles: read_roles(&text("roles")?).map_err(|why| corrupt("roles", why))?,
        created: time("create_time")?,
        updated: time("update_time")?,
        etag: Etag::of(row.get("version")?),
    };
    Ok(Account { user, password: Hash::stored(text("password")?) })
}
