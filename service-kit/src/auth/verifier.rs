//! Who sends a request.

use tonic::codegen::http::{HeaderMap, header::AUTHORIZATION};

use super::{
    PublicKey,
    jwks::{Jwks, Pace},
    refusal::Refusal,
    token::{self, Issuer, Key},
    verified::{Known, Verified, fingerprint},
};

/// How many tokens are remembered at least.
const REMEMBERED: usize = 4_096;

/// Tells who presents a token.
#[derive(Debug)]
pub(super) struct Verifier {
    /// What services sign with, derived from the seed they share.
    services: Key,
    users: Jwks,
    verified: Verified,
}

impl Verifier {
    pub(super) fn new(services: PublicKey, pace: Pace) -> Self {
        let services = Key::new(services, Issuer::Services);
        Self { services, users: Jwks::new(pace), verified: Verified::new(REMEMBERED) }
    }

    /// The keys of people's tokens.
    pub(super) fn users(&self) -> &Jwks {
        &self.users
    }

    /// Who presents `token`, as far as can be told without waiting.
    pub(super) fn check(&self, token: &str) -> Result<Known, Refusal> {
        let known = self.verify(token)?;
        // Asked of tokens that were verified before, too.
        if self.users.revoked().has(&known.caller, known.issued) { Err(Refusal::Revoked) } else { Ok(known) }
    }

    fn verify(&self, token: &str) -> Result<Known, Refusal> {
        if token.len() > token::LONGEST {
            return Err(Refusal::TooLong);
        }
        let users = self.users.keys();
        // Services are known also while the keys of people are not.
        let generation = users.as_ref().map_or(0, |(_, generation)| *generation);
        let fingerprint = fingerprint(token);
        if let Some(known) = self.verified.get(&fingerprint, generation, token::now()) {
            return Ok(known);
        }
        let kid = token::kid(token)?;
        let known = if kid == self.services.kid() {
            self.services.verify(token)?
        } else {
            let (keys, _) = users.ok_or(Refusal::NoKeys)?;
            let key = keys.iter().find(|key| key.kid() == kid);
            key.ok_or(Refusal::UnknownKey)?.verify(token)?
        };
        self.verified.put(fingerprint, known.clone(), generation);
        Ok(known)
    }

    /// Who presents `token`, after waiting a bounded time for keys that
    /// `refusal`, what [`check`](Self::check) has said, is due to.
    pub(super) async fn check_again(&self, token: &str, refusal: Refusal) -> Result<Known, Refusal> {
        match refusal {
            Refusal::NoKeys => self.users.good().await,
            Refusal::UnknownKey => self.users.ask().await,
            refusal => return Err(refusal),
        }
        let checked = self.check(token);
        match checked {
            // The first answer has come, and may be older than the key.
            Err(Refusal::UnknownKey) if refusal == Refusal::NoKeys => {
                self.users.ask().await;
                self.check(token)
            }
            checked => checked,
        }
    }
}

/// The token in `authorization: Bearer TOKEN`.
pub(super) fn presented(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next().ok_or(Refusal::Missing)?;
    if all.next().is_some() {
        return Err(Refusal::Several);
    }
    let text = value.to_str().map_err(|_| Refusal::Scheme)?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::Scheme)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(Refusal::Scheme) }
}
