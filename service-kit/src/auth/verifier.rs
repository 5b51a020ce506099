//! The verification of presented tokens.

use tonic::codegen::http::{HeaderMap, header::AUTHORIZATION};

use super::{
    PublicKey,
    jwks::{Jwks, JwksSettings},
    token::{self, Issuer, VerificationKey},
    token_cache::{TokenCache, VerifiedToken, fingerprint},
    token_error::TokenError,
};

/// The minimum number of cached tokens.
const MIN_CACHED_TOKENS: usize = 4_096;

/// The verifier of tokens.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The key of services, derived from the seed that they share.
    services: VerificationKey,
    users: Jwks,
    cache: TokenCache,
}

impl Verifier {
    pub(super) fn new(services: PublicKey, settings: JwksSettings) -> Self {
        let services = VerificationKey::new(services, Issuer::Services);
        Self { services, users: Jwks::new(settings), cache: TokenCache::new(MIN_CACHED_TOKENS) }
    }

    /// The keys of people's tokens.
    pub(super) fn users(&self) -> &Jwks {
        &self.users
    }

    /// Verifies `token` without waiting for keys.
    pub(super) fn check(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let verified = self.verify(token)?;
        // Checked for cached tokens, too.
        let is_revoked = self.users.revoked().contains(&verified.caller, verified.issued);
        if is_revoked { Err(TokenError::Revoked) } else { Ok(verified) }
    }

    fn verify(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        if token.len() > token::MAX_TOKEN_LENGTH {
            return Err(TokenError::TooLong);
        }
        let users = self.users.keys();
        // Services are verified even without the keys of user-service.
        let generation = users.as_ref().map_or(0, |(_, generation)| *generation);
        let fingerprint = fingerprint(token);
        if let Some(verified) = self.cache.get(&fingerprint, generation, token::now()) {
            return Ok(verified);
        }
        let kid = token::kid(token)?;
        let verified = if kid == self.services.kid() {
            self.services.verify(token)?
        } else {
            let (keys, _) = users.ok_or(TokenError::NoKeys)?;
            let key = keys.iter().find(|key| key.kid() == kid);
            key.ok_or(TokenError::UnknownKey)?.verify(token)?
        };
        self.cache.insert(fingerprint, verified.clone(), generation);
        Ok(verified)
    }

    /// Verifies `token` again after waiting a bounded time for keys, whose lack has
    /// made [`check`](Self::check) fail with `error`.
    pub(super) async fn check_again(
        &self,
        token: &str,
        error: TokenError,
    ) -> Result<VerifiedToken, TokenError> {
        match error {
            TokenError::NoKeys => self.users.wait_for_keys().await,
            TokenError::UnknownKey => self.users.refresh().await,
            error => return Err(error),
        }
        let checked = self.check(token);
        match checked {
            // The first response may be older than the key.
            Err(TokenError::UnknownKey) if error == TokenError::NoKeys => {
                self.users.refresh().await;
                self.check(token)
            }
            checked => checked,
        }
    }
}

/// Reads the token in `authorization: Bearer TOKEN`.
pub(super) fn presented(headers: &HeaderMap) -> Result<&str, TokenError> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next().ok_or(TokenError::Missing)?;
    if all.next().is_some() {
        return Err(TokenError::Several);
    }
    let text = value.to_str().map_err(|_| TokenError::Scheme)?;
    let (scheme, token) = text.split_once(' ').ok_or(TokenError::Scheme)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(TokenError::Scheme) }
}
