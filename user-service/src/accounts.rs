//! Accounts: registration, changes and deletion.

use service_kit::{
    auth::{Caller, Role, Roles},
    timestamp::Timestamp,
    value::Etag,
};

use crate::{
    Error,
    access::{self, AccessLevel},
    clock::Clock,
    domain::{Candidate, Password, User, UserId},
    hasher::{Hash, Hasher},
    login_limit::FailureSubject,
    request::{Changes, Registration, Update},
    store::{Account, Change, Store},
};

/// The operations on accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) store: Store,
    pub(crate) hasher: Hasher,
    pub(crate) clock: Clock,
}

/// A new password of an account.
enum NewPassword {
    /// It is the current one.
    Unchanged,
    /// It is another one.
    Changed(Password),
}

impl Accounts {
    /// Creates an account of a customer.
    pub(crate) async fn register(&self, from: Registration) -> Result<User, Error> {
        // Before the check of the address, so that a taken one takes as long.
        let password = self.hasher.hash(from.password.candidate()).await?;
        let now = self.clock.now();
        let user = User {
            id: UserId::new(Timestamp::now()),
            email: from.email,
            display_name: from.display_name,
            roles: [Role::Customer].into(),
            created: now,
            updated: now,
            etag: Etag::of(1),
        };
        let account = Account { user, password };
        self.store.create(&account).await?;
        Ok(account.user)
    }

    /// Reads an account that the caller may see.
    pub(crate) async fn get(&self, caller: &Caller, id: UserId) -> Result<User, Error> {
        access::may_see(&self.with_current_roles(caller).await?, id)?;
        Ok(self.store.get(id).await?.ok_or(Error::NotFound(id))?.user)
    }

    /// Changes an account. A change of one's own address or password needs the current
    /// password.
    pub(crate) async fn update(&self, caller: &Caller, update: Update) -> Result<User, Error> {
        let Update { id, seen, changes, current } = update;
        let caller = self.with_current_roles(caller).await?;
        let level = access::may_change(&caller, id)?;
        if changes.roles.is_some() {
            access::may_give_roles(&caller)?;
        }
        let Changes { email, display_name, roles, password } = changes;
        let by = access::person(&caller);
        let mut change = Change { by, email, display_name, roles, password: None };
        let mut proven = None;
        if change.email.is_some() || password.is_some() {
            let account = self.store.get(id).await?.ok_or(Error::NotFound(id))?;
            let new_password = match level {
                AccessLevel::Owner => self.owner_password(&account, current, password).await?,
                AccessLevel::Admin => self.admin_password(&account, password).await?,
            };
            if let Some(NewPassword::Changed(password)) = new_password {
                let email = change.email.as_ref().unwrap_or(&account.user.email);
                password.suits(email).map_err(|why| service_kit::error::invalid("password", why))?;
                change.password = Some(self.hasher.hash(password.candidate()).await?);
            }
            proven = Some(account.password);
        }
        self.store.update(id, seen, proven.as_ref(), &change, self.clock.now()).await
    }

    /// Deletes an account, if it exists.
    pub(crate) async fn delete(&self, caller: &Caller, id: UserId) -> Result<(), Error> {
        let caller = self.with_current_roles(caller).await?;
        access::may_change(&caller, id)?;
        self.store.delete(id, access::person(&caller), self.clock.now()).await
    }

    /// The caller with the current roles of their account: those in a token are as old
    /// as the token. The store checks them again, in the transaction of a change.
    async fn with_current_roles(&self, caller: &Caller) -> Result<Caller, Error> {
        let Caller::User { id, .. } = caller else { return Ok(caller.clone()) };
        let account = match access::person(caller) {
            Some(person) => self.store.get(person).await?,
            None => None,
        };
        let roles = account.map_or_else(|| Roles::from([]), |account| account.user.roles);
        Ok(Caller::User { id: id.clone(), roles })
    }

    /// The new password of an owner who has given the current one. A repeated change
    /// gives the old one, and is accepted because the new one is set already.
    async fn owner_password(
        &self,
        account: &Account,
        current: Option<Candidate>,
        new: Option<Password>,
    ) -> Result<Option<NewPassword>, Error> {
        let current = current.ok_or(Error::CurrentPasswordWrong)?;
        let email = &account.user.email;
        let subjects = [FailureSubject::account(email), FailureSubject::account_from(email, None)];
        if self.verify_password(&subjects, &current, Some(&account.password)).await? {
            let is_same = |new: &Password| new.candidate().expose() == current.expose();
            return Ok(
                new.map(|new| if is_same(&new) { NewPassword::Unchanged } else { NewPassword::Changed(new) })
            );
        }
        if let Some(new) = &new
            && self.hasher.acquire().await?.verify(new.candidate(), Some(&account.password)).await?
        {
            return Ok(Some(NewPassword::Unchanged));
        }
        self.store.count_failure(&subjects, self.clock.now()).await?;
        Err(Error::CurrentPasswordWrong)
    }

    /// The new password that an admin sets.
    async fn admin_password(
        &self,
        account: &Account,
        new: Option<Password>,
    ) -> Result<Option<NewPassword>, Error> {
        let Some(new) = new else { return Ok(None) };
        let permit = self.hasher.acquire().await?;
        let is_same = permit.verify(new.candidate(), Some(&account.password)).await?;
        Ok(Some(if is_same { NewPassword::Unchanged } else { NewPassword::Changed(new) }))
    }

    /// Verifies a password, unless one of `subjects` is in a backoff. Does not count a
    /// failure.
    pub(crate) async fn verify_password(
        &self,
        subjects: &[FailureSubject],
        password: &Candidate,
        hash: Option<&Hash>,
    ) -> Result<bool, Error> {
        self.check_backoff(subjects, self.clock.now()).await?;
        let permit = self.hasher.acquire().await?;
        // Many calls may have waited for a permit while the first of them failed.
        self.check_backoff(subjects, self.clock.now()).await?;
        Ok(permit.verify(password, hash).await?)
    }

    async fn check_backoff(&self, subjects: &[FailureSubject], now: Timestamp) -> Result<(), Error> {
        let backoff = self.store.backoff(subjects, now).await?;
        if backoff.is_zero() { Ok(()) } else { Err(Error::TooManyAttempts(backoff)) }
    }
}
