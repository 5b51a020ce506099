//! Authentication and authorization of callers.
//!
//! [`Auth::guard`] wraps a generated server: it passes a request with a
//! [`Caller`] among its extensions, or rejects it. [`TABLE`] has the access rule
//! of each method. A handler gets the caller by [`Caller::of`] and lets it act
//! for a customer only after [`Caller::may_act_for`]. A request that did not pass
//! a guard has no caller and is rejected: a forgotten guard grants no access.
//!
//! People present a token that user-service signs with a [`Signer`]; every
//! service verifies it with the keys that user-service publishes. Services sign
//! their own tokens, from a [`Seed`] that they share, and [`Auth::client`] adds
//! them to outgoing calls. A token is verified when a call begins. A stream that
//! is open when its token expires ends with UNAUTHENTICATED, `TOKEN_EXPIRED`, and
//! its caller resumes it with a new token.
//!
//! A token of an account that was deleted, or has lost a role, is rejected before
//! it expires (`TOKEN_REVOKED`): user-service publishes those accounts beside its
//! keys, and every service fetches both every 3 s. While user-service is
//! unavailable the last list stays, and later revocations are not seen.
//!
//! All services sign with keys from one seed: a process that has it can pose as
//! any service. It is needed until connections have an identity of their own
//! (mTLS).

use std::{fmt, future::Future, sync::Arc};

use anyhow::Context;
use mesh_proto::shop::user::v1::Revocation;
use registry_client::{Channel, Mesh};

mod caller;
mod expiry;
mod guard;
mod jwks;
mod key;
mod outgoing;
mod provider;
mod revoked;
mod role;
mod seed;
mod signer;
mod table;
mod token;
mod token_cache;
mod token_error;
mod verifier;

pub use caller::Caller;
pub use guard::Guarded;
pub use key::{InvalidKey, PublicKey};
pub use outgoing::Outgoing;
pub use revoked::{MAX_REVOCATIONS, digest_of};
pub use role::{Role, Roles};
pub use seed::Seed;
pub use signer::{Claims, Signer};
pub use table::{AccessRule, TABLE};

#[cfg(feature = "test-util")]
pub(crate) use token::LEEWAY;

use jwks::JwksSettings;
use outgoing::TokenSource;
use verifier::Verifier;

#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_token(data: &[u8]) {
    token::fuzz(data);
}

/// The service that issues the tokens of people.
const ISSUER: &str = token::USERS;

/// The authentication of a service's callers. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    enabled: Option<Arc<EnabledAuth>>,
}

struct EnabledAuth {
    service: &'static str,
    tokens: Arc<TokenSource>,
    verifier: Verifier,
    anonymous: Arc<Caller>,
}

impl Auth {
    /// No authentication: every caller may do everything. For development on one
    /// machine.
    #[must_use]
    pub fn off() -> Self {
        Self { enabled: None }
    }

    /// Authenticates every caller of `service`. The shop's services share `seed`.
    ///
    /// # Errors
    /// When the name or the seed is invalid.
    pub fn on(service: &'static str, seed: Seed) -> anyhow::Result<Self> {
        let signer = Signer::of(seed).context("the key of the services is invalid")?;
        let name = service.parse().with_context(|| format!("`{service}` is not a service name"))?;
        let verifier = Verifier::new(signer.public().clone(), JwksSettings::default());
        let tokens = Arc::new(TokenSource::new(signer, name));
        let anonymous = Arc::new(Caller::Anonymous);
        Ok(Self { enabled: Some(Arc::new(EnabledAuth { service, tokens, verifier, anonymous })) })
    }

    /// True when callers are authenticated.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled.is_some()
    }

    /// Wraps `service` with the guard.
    #[must_use]
    pub fn guard<S>(&self, service: S) -> Guarded<S> {
        Guarded::new(service, self.clone())
    }

    /// Wraps `channel` so that every call carries a token of this service, unless
    /// authentication is off.
    #[must_use]
    pub fn client(&self, channel: Channel) -> Outgoing {
        match &self.enabled {
            Some(auth) => Outgoing::of(channel, auth.tokens.clone()),
            None => Outgoing::anonymous(channel),
        }
    }

    /// Sets the keys that verify people's tokens, and stops fetching them. For the
    /// service that issues the tokens: while it is built, and whenever its keys
    /// change.
    pub fn publish(&self, keys: impl IntoIterator<Item = PublicKey>) {
        if let Some(auth) = &self.enabled {
            auth.verifier.users().publish(keys.into_iter().collect());
        }
    }

    /// Sets the list of revocations. For the service that issues the tokens, like
    /// [`publish`](Self::publish).
    pub fn revoke(&self, revocations: &[Revocation]) {
        if let Some(auth) = &self.enabled {
            auth.verifier.users().revoked().replace(revocations);
        }
    }

    /// Refreshes the keys of user-service until it is dropped.
    pub(crate) fn refresh_keys(&self, mesh: &Mesh) -> impl Future<Output = ()> + Send + use<> {
        let (auth, mesh) = (self.clone(), mesh.clone());
        async move {
            let Some(auth) = &auth.enabled else { return };
            auth.verifier.users().run_refresh(|| jwks::fetch(mesh.channel(ISSUER))).await;
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("on", &self.is_on()).finish_non_exhaustive()
    }
}
