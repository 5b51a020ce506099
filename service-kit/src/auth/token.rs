//! Access tokens: JWTs (RFC 7519, RFC 8037, RFC 9068) and their verification.
//!
//! The key determines the algorithm and the issuer, never the token.
//! `jsonwebtoken` verifies signature, `exp`, `nbf`, `iss` and `aud`. This module
//! verifies the rest: the header has exactly the known members, every claim is
//! present, once and of its type, `iat` is not in the future, and the lifetime is
//! bounded.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Caller, Claims, PublicKey, Role, Roles, provider, token_cache::VerifiedToken, token_error::TokenError,
};
use crate::value::CustomerId;

/// The issuer of people's tokens.
pub(super) const USERS: &str = "user-service";
/// The issuer of services' tokens, each of which signs its own.
pub(super) const SERVICES: &str = "services";
pub(super) const AUDIENCE: &str = "shop";
/// The one role of a service.
pub(super) const SERVICE_ROLE: &str = "service";

/// The tolerated difference between the clocks of two machines.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);
/// The maximum length of a token in bytes.
pub(super) const MAX_TOKEN_LENGTH: usize = 8 * 1024;

const TYPE: &str = "at+jwt";
const ALGORITHM: &str = "EdDSA";

/// The first part of a token. A header with other members, such as `jku`, `jwk`,
/// `x5u` or `crit`, is rejected.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

impl<'a> Header<'a> {
    pub(super) fn of(kid: &'a str) -> Self {
        Self { typ: TYPE, alg: ALGORITHM, kid }
    }
}

/// The second part, for signing.
#[derive(Serialize)]
pub(super) struct Payload<'a> {
    pub(super) iss: &'a str,
    pub(super) aud: &'a str,
    pub(super) sub: &'a str,
    pub(super) roles: Vec<&'a str>,
    pub(super) iat: u64,
    pub(super) nbf: u64,
    pub(super) exp: u64,
    pub(super) jti: Uuid,
}

/// The second part, when verified: each of these claims is present once. Unknown
/// claims are ignored.
#[derive(Deserialize)]
struct ReceivedClaims {
    #[serde(rename = "iss")]
    _issuer: String,
    #[serde(rename = "aud")]
    _audience: String,
    sub: String,
    roles: Vec<String>,
    iat: u64,
    nbf: u64,
    exp: u64,
    #[serde(rename = "jti")]
    _id: Uuid,
}

/// The issuer whose tokens a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issuer {
    Users,
    Services,
}

/// A key that verifies tokens.
#[derive(Clone, Debug)]
pub(super) struct VerificationKey {
    public: PublicKey,
    decoding: DecodingKey,
    issuer: Issuer,
    validation: Validation,
}

impl VerificationKey {
    pub(super) fn new(public: PublicKey, issuer: Issuer) -> Self {
        provider::install();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[match issuer {
            Issuer::Users => USERS,
            Issuer::Services => SERVICES,
        }]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        Self { decoding: DecodingKey::from_ed_der(public.as_bytes()), public, issuer, validation }
    }

    pub(super) fn kid(&self) -> &str {
        self.public.kid()
    }

    /// True when it is this key.
    pub(super) fn is(&self, key: &PublicKey) -> bool {
        self.public == *key
    }

    /// Verifies `token`.
    pub(super) fn verify(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let received = jsonwebtoken::decode::<ReceivedClaims>(token, &self.decoding, &self.validation);
        let claims = received.map_err(|why| token_error(why.kind()))?.claims;
        check_times(&claims, now())?;
        let caller = match self.issuer {
            Issuer::Users => user(&claims)?,
            Issuer::Services => service(&claims)?,
        };
        let until = claims.exp + LEEWAY.as_secs();
        Ok(VerifiedToken { caller: Arc::new(caller), issued: claims.iat, until })
    }
}

/// Reads the `kid` of a token whose header may be valid.
pub(super) fn kid(token: &str) -> Result<String, TokenError> {
    if token.len() > MAX_TOKEN_LENGTH {
        return Err(TokenError::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed);
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| TokenError::Header)?;
    if (header.typ, header.alg) != (TYPE, ALGORITHM) {
        return Err(TokenError::Header);
    }
    Ok(header.kid.to_owned())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn token_error(why: &ErrorKind) -> TokenError {
    match why {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYet,
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) => TokenError::Malformed,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::Header,
        _ => TokenError::Claims,
    }
}

fn check_times(claims: &ReceivedClaims, now: u64) -> Result<(), TokenError> {
    let (max_lifetime, leeway) = (Claims::MAX_LIFETIME.as_secs(), LEEWAY.as_secs());
    if claims.iat > now + leeway {
        return Err(TokenError::NotYet);
    }
    if claims.exp > now + max_lifetime + leeway || claims.exp.saturating_sub(claims.iat) > max_lifetime {
        return Err(TokenError::TooLongLived);
    }
    if claims.exp < claims.iat || claims.exp < claims.nbf {
        return Err(TokenError::Claims);
    }
    Ok(())
}

fn user(claims: &ReceivedClaims) -> Result<Caller, TokenError> {
    let id = CustomerId::parse(&claims.sub).map_err(|_| TokenError::Subject)?;
    let roles: Option<Roles> = claims.roles.iter().map(|role| role.parse::<Role>().ok()).collect();
    let roles = roles.filter(|roles| !roles.is_empty()).ok_or(TokenError::Roles)?;
    Ok(Caller::User { id, roles })
}

fn service(claims: &ReceivedClaims) -> Result<Caller, TokenError> {
    if claims.roles != [SERVICE_ROLE] {
        return Err(TokenError::Roles);
    }
    claims.sub.parse().map(Caller::Service).map_err(|_| TokenError::Subject)
}

/// Verifies the data as a token, and a token whose header and claims, a line
/// each, are signed with a known key: neither is accepted for longer than the
/// maximum lifetime. [`ISSUED`] among the claims stands for the current time.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8]) {
    use super::{Seed, Signer};

    let Ok(text) = std::str::from_utf8(data) else { return };
    let signer = Seed::of(b"12345678901234567890123456789012").and_then(Signer::of);
    let signer = signer.expect("a key of 32 bytes");
    let signed = text
        .split_once('\n')
        .map(|(header, claims)| signer.sign_text(header, &claims.replace(ISSUED, &now().to_string())));
    for issuer in [Issuer::Users, Issuer::Services] {
        let key = VerificationKey::new(signer.public().clone(), issuer);
        let _ = kid(text);
        assert!(key.verify(text).is_err(), "it is not signed");
        if let Some(Ok(known)) = signed.as_deref().map(|token| key.verify(token)) {
            let latest = now() + Claims::MAX_LIFETIME.as_secs() + 2 * LEEWAY.as_secs();
            assert!(known.until <= latest && known.issued <= known.until, "{known:?}");
        }
    }
}

#[cfg(feature = "fuzzing")]
const ISSUED: &str = "1700000000";
