//! Accounts: how they come to be, change and go.

use service_kit::{
    auth::{Caller, Role, Roles},
    timestamp::Timestamp,
    value::Etag,
};

use crate::{
    Error,
    access::{self, Standing},
    clock::Clock,
    domain::{Candidate, Password, User, UserId},
    hasher::{Hash, Hasher},
    limit::Subject,
    request::{Changes, Registration, Update},
    store::{Account, Change, Store},
};

/// What keeps accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) store: Store,
    pub(crate) hasher: Hasher,
    pub(crate) clock: Clock,
}

/// What is known of the password that shall be.
enum Wanted {
    /// The one that is.
    Same,
    /// Another.
    Other(Password),
}

impl Accounts {
    /// Makes an account of a customer.
    pub(crate) async fn register(&self, from: Registration) -> Result<User, Error> {
        // Whether the address is taken or not, it takes as long.
        let password = self.hasher.hash(from.password.candidate()).await?;
        let now = self.clock.now();
        let user = User {
            id: UserId::new(),
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

    /// The account, which the caller may see.
    pub(crate) async fn get(&self, caller: &Caller, id: UserId) -> Result<User, Error> {
        access::may_see(&self.confirmed(caller).await?, id)?;
        Ok(self.store.get(id).await?.ok_or(Error::NotFound(id))?.user)
    }

    /// Changes the account. Who changes their own address or password says
    /// what the password is.
    pub(crate) async fn update(&self, caller: &Caller, update: Update) -> Result<User, Error> {
        let Update { id, seen, changes, current } = update;
        let caller = self.confirmed(caller).await?;
        let standing = access::may_change(&caller, id)?;
        if changes.roles.is_some() {
            access::may_give_roles(&caller)?;
        }
        let Changes { email, display_name, roles, password } = changes;
        let by = access::person(&caller);
        let mut change = Change { by, email, display_name, roles, password: None };
        let mut proven = None;
        if change.email.is_some() || password.is_some() {
            let account = self.store.get(id).await?.ok_or(Error::NotFound(id))?;
            let wanted = match standing {
                Standing::Own => self.own_password(&account, current, password).await?,
                Standing::Admin => self.wanted(&account, password).await?,
            };
            if let Some(Wanted::Other(password)) = wanted {
                let email = change.email.as_ref().unwrap_or(&account.user.email);
                password.suits(email).map_err(|why| service_kit::error::invalid("password", why))?;
                change.password = Some(self.hasher.hash(password.candidate()).await?);
            }
            proven = Some(account.password);
        }
        self.store.update(id, seen, proven.as_ref(), &change, self.clock.now()).await
    }

    /// Deletes the account, if it is there.
    pub(crate) async fn delete(&self, caller: &Caller, id: UserId) -> Result<(), Error> {
        let caller = self.confirmed(caller).await?;
        access::may_change(&caller, id)?;
        self.store.delete(id, access::person(&caller), self.clock.now()).await
    }

    /// The caller with the roles that their account has now: those in a token
    /// are as old as the token. The store asks once more, in the transaction
    /// that makes a change.
    async fn confirmed(&self, caller: &Caller) -> Result<Caller, Error> {
        let Caller::User { id, .. } = caller else { return Ok(caller.clone()) };
        let account = match access::person(caller) {
            Some(person) => self.store.get(person).await?,
            None => None,
        };
        let roles = account.map_or_else(|| Roles::from([]), |account| account.user.roles);
        Ok(Caller::User { id: id.clone(), roles })
    }

    /// What shall become of the password of who has proved to know the present
    /// one. The same change made again proves it by the new one, which it
    /// already is.
    async fn own_password(
        &self,
        account: &Account,
        current: Option<Candidate>,
        wanted: Option<Password>,
    ) -> Result<Option<Wanted>, Error> {
        let current = current.ok_or(Error::CurrentPasswordWrong)?;
        let email = &account.user.email;
        let subjects = [Subject::account(email), Subject::account_from(email, None)];
        if self.is_right(&subjects, &current, Some(&account.password)).await? {
            let same = |wanted: &Password| wanted.candidate().expose() == current.expose();
            return Ok(wanted.map(|wanted| if same(&wanted) { Wanted::Same } else { Wanted::Other(wanted) }));
        }
        if let Some(wanted) = &wanted
            && self.hasher.turn().await?.verify(wanted.candidate(), Some(&account.password)).await?
        {
            return Ok(Some(Wanted::Same));
        }
        self.store.count_failure(&subjects, self.clock.now()).await?;
        Err(Error::CurrentPasswordWrong)
    }

    async fn wanted(&self, account: &Account, wanted: Option<Password>) -> Result<Option<Wanted>, Error> {
        let Some(wanted) = wanted else { return Ok(None) };
        let turn = self.hasher.turn().await?;
        let is_same = turn.verify(wanted.candidate(), Some(&account.password)).await?;
        Ok(Some(if is_same { Wanted::Same } else { Wanted::Other(wanted) }))
    }

    /// Whether this is the password, unless `subjects` are not heard now. Does
    /// not count a failure.
    pub(crate) async fn is_right(
        &self,
        subjects: &[Subject],
        password: &Candidate,
        hash: Option<&Hash>,
    ) -> Result<bool, Error> {
        self.is_heard(subjects, self.clock.now()).await?;
        let turn = self.hasher.turn().await?;
        // Many may have waited for their turn while the first of them failed.
        self.is_heard(subjects, self.clock.now()).await?;
        Ok(turn.verify(password, hash).await?)
    }

    async fn is_heard(&self, subjects: &[Subject], now: Timestamp) -> Result<(), Error> {
        let wait = self.store.wait(subjects, now).await?;
        if wait.is_zero() { Ok(()) } else { Err(Error::TooManyAttempts(wait)) }
    }
}
