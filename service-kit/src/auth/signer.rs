//! The signing of tokens.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_proto::shop::user::v1::Jwk;
use registry_client::instance::ServiceName;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Serialize;
use uuid::Uuid;

use super::{InvalidKey, PublicKey, Roles, Seed, token};
use crate::value::CustomerId;

/// The claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    subject: Subject,
    /// The time of issue, from which it is valid.
    issued: SystemTime,
    lifetime: Duration,
}

/// The subject of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    User(CustomerId, Roles),
    Service(ServiceName),
}

impl Claims {
    /// The maximum lifetime of a token: 1 h. Tokens that claim more are rejected.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(3_600);

    /// The claims of the user `id` with these roles, valid from now on for
    /// `lifetime`, at most [`MAX_LIFETIME`](Self::MAX_LIFETIME).
    #[must_use]
    pub fn new(id: CustomerId, roles: impl Into<Roles>, lifetime: Duration) -> Self {
        Self::of(Subject::User(id, roles.into()), lifetime)
    }

    pub(super) fn service(name: ServiceName, lifetime: Duration) -> Self {
        Self::of(Subject::Service(name), lifetime)
    }

    /// The same, issued at `issued`.
    #[cfg(feature = "test-util")]
    pub(crate) fn issued(self, issued: SystemTime) -> Self {
        Self { issued, ..self }
    }

    fn of(subject: Subject, lifetime: Duration) -> Self {
        Self { subject, issued: SystemTime::now(), lifetime: lifetime.min(Self::MAX_LIFETIME) }
    }

    /// The time of expiry, to the second.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.issued_at() + self.lifetime.as_secs())
    }

    fn issued_at(&self) -> u64 {
        self.issued.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// A pair of keys that signs tokens.
pub struct Signer {
    seed: Seed,
    pair: Ed25519KeyPair,
    public: PublicKey,
    /// The first part of every token.
    header: String,
}

impl Signer {
    /// A new pair.
    ///
    /// # Errors
    /// When the operating system returns no random numbers.
    pub fn generate() -> Result<Self, InvalidKey> {
        Self::of(Seed::generate()?)
    }

    /// The key pair of a seed.
    ///
    /// # Errors
    /// When the seed is invalid.
    pub fn of(seed: Seed) -> Result<Self, InvalidKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| InvalidKey::Length)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| InvalidKey::Length)?;
        let public = PublicKey::of(public)?;
        let header = encoded(&token::Header::of(public.kid()));
        Ok(Self { seed, pair, public, header })
    }

    /// Signs a token with `claims`.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        let issued = claims.issued_at();
        let (issuer, sub, roles) = match &claims.subject {
            Subject::User(id, roles) => {
                (token::USERS, id.as_str(), roles.iter().map(super::Role::as_str).collect())
            }
            Subject::Service(name) => (token::SERVICES, name.as_str(), vec![token::SERVICE_ROLE]),
        };
        let payload = token::Payload {
            iss: issuer,
            aud: token::AUDIENCE,
            sub,
            roles,
            iat: issued,
            nbf: issued,
            exp: issued + claims.lifetime.as_secs(),
            jti: Uuid::now_v7(),
        };
        let message = format!("{}.{}", self.header, encoded(&payload));
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Signs any texts as header and claims.
    #[cfg(feature = "fuzzing")]
    pub(super) fn sign_text(&self, header: &str, claims: &str) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// The id by which its tokens name it.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.public.kid()
    }

    /// The key that verifies its tokens.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public key as user-service publishes it.
    #[must_use]
    pub fn jwk(&self) -> Jwk {
        self.public.to_jwk()
    }

    /// The secret half, for storage.
    #[must_use]
    pub fn seed(&self) -> &Seed {
        &self.seed
    }
}

/// Encodes a part of a token. Its keys are strings, so it can always be
/// serialized.
fn encoded(part: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).unwrap_or_default())
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    #[test]
    fn the_same_seed_gives_the_same_keys() {
        let signer = Signer::generate().unwrap();
        let again = Signer::of(Seed::of(signer.seed().expose()).unwrap()).unwrap();
        assert_eq!(signer.jwk(), again.jwk());
        assert_eq!(PublicKey::from_jwk(&signer.jwk()).unwrap(), *signer.public());
        assert_ne!(signer.kid(), Signer::generate().unwrap().kid());
    }

    #[test]
    fn no_token_is_valid_for_longer_than_an_hour() {
        let id = CustomerId::parse("ada").unwrap();
        let claims = Claims::new(id, [Role::Customer], Duration::MAX);
        let left = claims.expires().duration_since(SystemTime::now()).unwrap();
        assert!(
            left <= Claims::MAX_LIFETIME && left > Claims::MAX_LIFETIME - Duration::from_secs(5),
            "{left:?}"
        );
    }

    #[test]
    fn a_signer_does_not_show_its_seed() {
        let signer = Signer::generate().unwrap();
        let shown = format!("{signer:?}");
        assert!(shown.contains(signer.kid()) && !shown.to_lowercase().contains("seed"), "{shown}");
    }
}
