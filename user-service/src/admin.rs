//! The first admin.

use anyhow::{Context, anyhow};
use secrecy::ExposeSecret;
use service_kit::{
    auth::{Role, Roles},
    timestamp::Timestamp,
    value::Etag,
};
use tracing::info;

use crate::{
    Error, FirstAdmin,
    accounts::Accounts,
    domain::{DisplayName, Email, Password, User, UserId, with_role},
    store::{Account, Change},
};

/// The most attempts when other replicas change the account concurrently.
const MAX_ATTEMPTS: usize = 5;

/// Creates the account of `admin`, or gives it the role. An account that has the role
/// already stays as it is. An account without it gets the role together with this
/// password, so that no one becomes admin by registering the address first. Any
/// number of replicas may call it repeatedly.
pub(crate) async fn ensure(accounts: &Accounts, admin: &FirstAdmin) -> anyhow::Result<()> {
    let email = Email::parse(&admin.email).map_err(|why| anyhow!("ADMIN_EMAIL {why}"))?;
    let password = Password::parse(admin.password.expose_secret().to_owned());
    let password = password.map_err(|why| anyhow!("ADMIN_PASSWORD {why}"))?;
    password.suits(&email).map_err(|why| anyhow!("ADMIN_PASSWORD {why}"))?;
    for _ in 0..MAX_ATTEMPTS {
        match try_once(accounts, &email, &password).await {
            Err(Error::EmailTaken | Error::Changed | Error::NotFound(_)) => {}
            done => return done.context("could not create the first admin"),
        }
    }
    Err(anyhow!("could not create the first admin: its account keeps changing; start again"))
}

async fn try_once(accounts: &Accounts, email: &Email, password: &Password) -> Result<(), Error> {
    let Accounts { store, hasher, clock } = accounts;
    let found = store.find(email).await?;
    if found.as_ref().is_some_and(|account| account.user.roles.contains(Role::Admin)) {
        return Ok(());
    }
    let hash = hasher.hash(password.candidate()).await?;
    let now = clock.now();
    if let Some(Account { user, .. }) = found {
        let roles = Some(with_role(user.roles, Role::Admin));
        let change = Change { roles, password: Some(hash), ..Change::default() };
        store.update(user.id, Some(user.etag), None, &change, now).await?;
        info!(user = %user.id, "made the account of ADMIN_EMAIL an admin, with ADMIN_PASSWORD");
        return Ok(());
    }
    let user = User {
        id: UserId::new(Timestamp::now()),
        email: email.clone(),
        display_name: DisplayName::of(email),
        roles: Roles::from([Role::Customer, Role::Admin]),
        created: now,
        updated: now,
        etag: Etag::of(1),
    };
    let id = user.id;
    store.create(&Account { user, password: hash }).await?;
    info!(user = %id, "created the first admin");
    Ok(())
}
