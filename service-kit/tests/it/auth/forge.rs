//! Tokens of every kind, good and bad.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use service_kit::{auth::Seed, testing::Callers};

/// Whom good tokens are about.
pub(crate) const SUBJECT: &str = "ada-the-secret-subject";

/// Makes the parts of tokens by hand, and signs with any key.
pub(crate) struct Forge {
    pub(crate) users: Ed25519KeyPair,
    pub(crate) services: Ed25519KeyPair,
    pub(crate) kid: String,
    pub(crate) services_kid: String,
}

impl Forge {
    pub(crate) fn of(callers: &Callers) -> Self {
        let services = service_kit::auth::Signer::of(Seed::of(callers.seed().expose()).unwrap()).unwrap();
        Self {
            users: pair(callers.signer().seed()),
            services: pair(callers.seed()),
            kid: callers.signer().kid().to_owned(),
            services_kid: services.kid().to_owned(),
        }
    }

    /// A header as it should be.
    pub(crate) fn header(&self) -> Value {
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": self.kid })
    }

    /// Claims as they should be.
    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": "user-service", "aud": "shop", "sub": SUBJECT, "roles": ["customer"],
            "iat": now(), "nbf": now(), "exp": now() + 900, "jti": "0197a3f0-0000-7000-8000-000000000001",
        })
    }

    /// A token that user-service's key signs.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        sign(&header.to_string(), &claims.to_string(), &self.users)
    }

    /// A good token.
    pub(crate) fn good(&self) -> String {
        self.token(&self.header(), &self.claims())
    }

    /// A token as it should be, but for these members of its header; null
    /// takes one away.
    pub(crate) fn headed(&self, changes: &Value) -> String {
        self.token(&changed(self.header(), changes), &self.claims())
    }

    /// A token as it should be, but for these claims; null takes one away.
    pub(crate) fn claiming(&self, changes: &Value) -> String {
        self.token(&self.header(), &changed(self.claims(), changes))
    }

    /// A token of a service, but for these claims.
    pub(crate) fn service(&self, changes: &Value) -> String {
        let own = json!({ "iss": "services", "sub": "order-service", "roles": ["service"] });
        let claims = changed(changed(self.claims(), &own), changes);
        let header = changed(self.header(), &json!({ "kid": self.services_kid }));
        sign(&header.to_string(), &claims.to_string(), &self.services)
    }

    /// A token whose signature is an HMAC under `secret`.
    pub(crate) fn hmac(&self, secret: &[u8]) -> String {
        let header = changed(self.header(), &json!({ "alg": "HS256" })).to_string();
        let message = format!("{}.{}", encode(&header), encode(self.claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", encode(tag))
    }

    pub(crate) fn public(&self) -> &[u8] {
        self.users.public_key().as_ref()
    }
}

fn pair(seed: &Seed) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).unwrap()
}

pub(crate) fn sign(header: &str, claims: &str, pair: &Ed25519KeyPair) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = pair.sign(message.as_bytes());
    format!("{message}.{}", encode(signature))
}

pub(crate) fn encode(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

pub(crate) fn changed(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        let members = object.as_object_mut().unwrap();
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    object
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
