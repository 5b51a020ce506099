//! Who calls, and what they may do.
//!
//! [`Auth::guard`] stands in front of a generated server: a request passes with
//! a [`Caller`] among its extensions, or not at all. [`TABLE`] says who may call
//! each method. A handler asks [`Caller::of`] and lets the caller act for a
//! customer only after [`Caller::may_act_for`]. A request that did not pass a
//! guard has no caller and is refused: forgetting the guard opens nothing.
//!
//! People show a token that user-service made with a [`Signer`], and every
//! service verifies it with the keys that user-service publishes. Services make
//! their own tokens, from a [`Seed`] that all of them know, and [`Auth::client`]
//! adds them to the calls they make. A token is looked at when a call begins; a
//! stream that is still open when it is believed no longer ends with
//! UNAUTHENTICATED, `TOKEN_EXPIRED`, and its caller resumes it with a new one.
//!
//! A token of an account that is gone, or has lost a role, is refused before it
//! expires (`TOKEN_REVOKED`): user-service lists those accounts beside its keys,
//! and every service asks for both every 3 s. While user-service is away the
//! last list stays, and what is revoked meanwhile is not heard of.
//!
//! All services sign with keys from one seed: whoever has it can be every
//! service. It stays until connections have an identity of their own (mTLS).

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
mod refusal;
mod revoked;
mod role;
mod seed;
mod signer;
mod table;
mod token;
mod verified;
mod verifier;

pub use caller::Caller;
pub use guard::Guarded;
pub use key::{InvalidKey, PublicKey};
pub use outgoing::Outgoing;
pub use revoked::{MAX_REVOCATIONS, digest_of};
pub use role::{Role, Roles};
pub use seed::Seed;
pub use signer::{Claims, Signer};
pub use table::{Allowed, TABLE};

#[cfg(feature = "test-util")]
pub(crate) use token::LEEWAY;

use jwks::Pace;
use outgoing::Minter;
use verifier::Verifier;

#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_token(data: &[u8]) {
    token::fuzz(data);
}

/// The service that issues the tokens of people.
const ISSUER: &str = token::USERS;

/// Whether and how callers are asked who they are. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    on: Option<Arc<On>>,
}

/// What asking needs.
struct On {
    /// The service that asks.
    service: &'static str,
    minter: Arc<Minter>,
    verifier: Verifier,
    nobody: Arc<Caller>,
}

impl Auth {
    /// Nobody is asked: everybody may do everything. For development on one
    /// machine.
    #[must_use]
    pub fn off() -> Self {
        Self { on: None }
    }

    /// Every caller of `service` is asked. `seed` is what the shop's services
    /// share.
    ///
    /// # Errors
    /// When the name is no service's or the seed gives no keys.
    pub fn on(service: &'static str, seed: Seed) -> anyhow::Result<Self> {
        let signer = Signer::of(seed).context("the key of the services cannot be used")?;
        let name = service.parse().with_context(|| format!("`{service}` is no service's name"))?;
        let verifier = Verifier::new(signer.public().clone(), Pace::default());
        let minter = Arc::new(Minter::new(signer, name));
        Ok(Self { on: Some(Arc::new(On { service, minter, verifier, nobody: Arc::new(Caller::Nobody) })) })
    }

    /// Whether callers are asked.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// `service`, behind this.
    #[must_use]
    pub fn guard<S>(&self, service: S) -> Guarded<S> {
        Guarded::new(service, self.clone())
    }

    /// `channel`, on which every call says that this service makes it; while
    /// nobody is asked, none does.
    #[must_use]
    pub fn client(&self, channel: Channel) -> Outgoing {
        match &self.on {
            Some(on) => Outgoing::of(channel, on.minter.clone()),
            None => Outgoing::silent(channel),
        }
    }

    /// Verifies people's tokens with these keys from now on, in place of those
    /// before, and asks nobody for others. For the service that issues the
    /// tokens: while it is built, and whenever its keys change.
    pub fn publish(&self, keys: impl IntoIterator<Item = PublicKey>) {
        if let Some(on) = &self.on {
            on.verifier.users().publish(keys.into_iter().collect());
        }
    }

    /// Believes no longer what these end, in place of those before. For the
    /// service that issues the tokens, as [`publish`](Self::publish).
    pub fn revoke(&self, revocations: &[Revocation]) {
        if let Some(on) = &self.on {
            on.verifier.users().revoked().replace(revocations);
        }
    }

    /// Keeps the keys of user-service new. Goes on until it is dropped.
    pub(crate) fn refresh_keys(&self, mesh: &Mesh) -> impl Future<Output = ()> + Send + use<> {
        let (auth, mesh) = (self.clone(), mesh.clone());
        async move {
            let Some(on) = &auth.on else { return };
            on.verifier.users().keep_new(|| jwks::fetch(mesh.channel(ISSUER))).await;
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("on", &self.is_on()).finish_non_exhaustive()
    }
}
