//! Access tokens: JWTs (RFC 7519, RFC 8037, RFC 9068) and whether to believe
//! one.
//!
//! A key says which algorithm its signatures have and whose tokens it signs;
//! the token is never asked. `jsonwebtoken` verifies signature, `exp`, `nbf`,
//! `iss` and `aud`; what it leaves open is decided here: the header holds
//! nothing but what we put there, every claim is present, once and of its type,
//! `iat` is not ahead, and nothing holds for long.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Caller, Claims, PublicKey, Role, Roles, provider, refusal::Refusal, verified::Known};
use crate::value::CustomerId;

/// Who issues the tokens of people.
pub(super) const USERS: &str = "user-service";
/// Who issues the tokens that services show one another: each its own.
pub(super) const SERVICES: &str = "services";
/// Whom tokens are for.
pub(super) const AUDIENCE: &str = "shop";
/// The one role of a service.
pub(super) const SERVICE_ROLE: &str = "service";

/// How far the clocks of two machines may be apart.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);
/// The longest token that is looked at.
pub(super) const LONGEST: usize = 8 * 1024;

const TYPE: &str = "at+jwt";
const ALGORITHM: &str = "EdDSA";

/// The first part of a token. Whatever else a header may hold, such as `jku`,
/// `jwk`, `x5u` or `crit`, is refused unread.
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

/// The second part, as it is written.
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

/// The second part, as it is read: each of these is there once. Claims that are
/// not known are passed over.
#[derive(Deserialize)]
struct Received {
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

/// Whose tokens a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issuer {
    Users,
    Services,
}

/// A key that tokens are verified with.
#[derive(Clone, Debug)]
pub(super) struct Key {
    public: PublicKey,
    decoding: DecodingKey,
    issuer: Issuer,
    validation: Validation,
}

impl Key {
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

    /// Whether it is this key.
    pub(super) fn is(&self, key: &PublicKey) -> bool {
        self.public == *key
    }

    /// Who presents `token`, and until when that is to be believed.
    pub(super) fn verify(&self, token: &str) -> Result<Known, Refusal> {
        let received = jsonwebtoken::decode::<Received>(token, &self.decoding, &self.validation);
        let claims = received.map_err(|why| refusal(why.kind()))?.claims;
        in_time(&claims, now())?;
        let caller = match self.issuer {
            Issuer::Users => user(&claims)?,
            Issuer::Services => service(&claims)?,
        };
        let until = claims.exp + LEEWAY.as_secs();
        Ok(Known { caller: Arc::new(caller), issued: claims.iat, until })
    }
}

/// The `kid` of a token that may be one of ours.
pub(super) fn kid(token: &str) -> Result<String, Refusal> {
    if token.len() > LONGEST {
        return Err(Refusal::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed);
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Refusal::Malformed)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| Refusal::Header)?;
    if (header.typ, header.alg) != (TYPE, ALGORITHM) {
        return Err(Refusal::Header);
    }
    Ok(header.kid.to_owned())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn refusal(why: &ErrorKind) -> Refusal {
    match why {
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::NotYet,
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) => Refusal::Malformed,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::Header,
        _ => Refusal::Claims,
    }
}

fn in_time(claims: &Received, now: u64) -> Result<(), Refusal> {
    let (longest, leeway) = (Claims::LONGEST.as_secs(), LEEWAY.as_secs());
    if claims.iat > now + leeway {
        return Err(Refusal::NotYet);
    }
    if claims.exp > now + longest + leeway || claims.exp.saturating_sub(claims.iat) > longest {
        return Err(Refusal::TooLongLived);
    }
    if claims.exp < claims.iat || claims.exp < claims.nbf {
        return Err(Refusal::Claims);
    }
    Ok(())
}

fn user(claims: &Received) -> Result<Caller, Refusal> {
    let id = CustomerId::parse(&claims.sub).map_err(|_| Refusal::Subject)?;
    let roles: Option<Roles> = claims.roles.iter().map(|role| role.parse::<Role>().ok()).collect();
    let roles = roles.filter(|roles| !roles.is_empty()).ok_or(Refusal::Roles)?;
    Ok(Caller::User { id, roles })
}

fn service(claims: &Received) -> Result<Caller, Refusal> {
    if claims.roles != [SERVICE_ROLE] {
        return Err(Refusal::Roles);
    }
    claims.sub.parse().map(Caller::Service).map_err(|_| Refusal::Subject)
}

/// A token, and one whose header and claims, a line each, are signed by a key
/// that is believed: neither is believed for longer than a token may hold.
/// [`ISSUED`] among the claims stands for the present.
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
        let key = Key::new(signer.public().clone(), issuer);
        let _ = kid(text);
        assert!(key.verify(text).is_err(), "nobody has signed it");
        if let Some(Ok(known)) = signed.as_deref().map(|token| key.verify(token)) {
            let latest = now() + Claims::LONGEST.as_secs() + 2 * LEEWAY.as_secs();
            assert!(known.until <= latest && known.issued <= known.until, "{known:?}");
        }
    }
}

#[cfg(feature = "fuzzing")]
const ISSUED: &str = "1700000000";
