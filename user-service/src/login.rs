//! Logins and the refresh of their tokens.

use std::net::IpAddr;

use mesh_proto::shop::user::v1::Tokens;
use service_kit::auth::Claims;

use crate::{
    Error,
    accounts::Accounts,
    clock::from_system_time,
    domain::{User, customer_of},
    keys::Keyring,
    login_limit::FailureSubject,
    refresh::RefreshToken,
    request::Credentials,
    store::Account,
};

/// The most attempts of a login whose password hash changes concurrently.
const MAX_ATTEMPTS: usize = 3;

/// The operations that issue tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    pub(crate) accounts: Accounts,
    pub(crate) keys: Keyring,
}

impl Logins {
    /// Exchanges credentials for tokens.
    ///
    /// An address without an account is treated in every step like one with another
    /// password: the same backoff, as long a hash, the same count, the same error.
    pub(crate) async fn log_in(&self, from: &Credentials, peer: Option<IpAddr>) -> Result<Tokens, Error> {
        let account = [FailureSubject::account(&from.email), FailureSubject::account_from(&from.email, peer)];
        let mut subjects = account.to_vec();
        subjects.extend(peer.map(FailureSubject::peer));
        for _ in 0..MAX_ATTEMPTS {
            let found = self.accounts.store.find(&from.email).await?;
            let hash = found.as_ref().map(|account| &account.password);
            let is_right = self.accounts.verify_password(&subjects, &from.password, hash).await?;
            let Some(found) = found.filter(|_| is_right) else { break };
            if let Some(tokens) = self.begin(&found, from, &account).await? {
                return Ok(tokens);
            }
        }
        self.accounts.store.count_failure(&subjects, self.accounts.clock.now()).await?;
        Err(Error::CredentialsWrong)
    }

    /// Begins a session and deletes the failures of `subjects`; returns `None` when the
    /// account has changed since.
    async fn begin(
        &self,
        account: &Account,
        from: &Credentials,
        subjects: &[FailureSubject],
    ) -> Result<Option<Tokens>, Error> {
        let hasher = &self.accounts.hasher;
        // The password is known here, so an outdated hash can be replaced.
        let hash = if hasher.is_outdated(&account.password) {
            hasher.hash(&from.password).await?
        } else {
            account.password.clone()
        };
        let token = RefreshToken::new()?;
        let now = self.accounts.clock.now();
        let begun = self.accounts.store.begin_session(account, &hash, &token, subjects, now).await?;
        let Some(user) = begun else { return Ok(None) };
        self.tokens(user, &token).await.map(Some)
    }

    /// Exchanges a refresh token for new tokens.
    pub(crate) async fn refresh(&self, token: &str) -> Result<Tokens, Error> {
        let token = RefreshToken::parse(token).ok_or(Error::RefreshTokenInvalid)?;
        let next = token.next()?;
        let now = self.accounts.clock.now();
        let user = self.accounts.store.refresh(&token, &next, now).await?;
        self.tokens(user.ok_or(Error::RefreshTokenInvalid)?, &next).await
    }

    async fn tokens(&self, user: User, refresh: &RefreshToken) -> Result<Tokens, Error> {
        let id = customer_of(user.id).map_err(|why| Error::Token(why.to_string()))?;
        let claims = Claims::new(id, user.roles, self.keys.token_lifetime());
        let access_token = self.keys.sign(|signer| signer.sign(&claims)).await?;
        Ok(Tokens {
            access_token,
            expire_time: Some(from_system_time(claims.expires()).into()),
            refresh_token: refresh.reveal(),
            user: Some(user.into()),
        })
    }
}
