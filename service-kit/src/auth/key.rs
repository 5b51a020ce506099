//! The public half of a key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_proto::shop::user::v1::Jwk;
use ring::digest::{SHA256, digest};

/// The reason why something is no key. Its text never shows the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Not 32 bytes, or not base64.
    #[error("the key must be 32 random bytes in base64")]
    Length,
    /// The secret half of the key is well known, or the seed is not random.
    #[error("the key is weak: it must be made of 32 random bytes")]
    Weak,
    /// Not an Ed25519 key to verify signatures with.
    #[error("the key must have kty OKP, crv Ed25519, alg EdDSA and use sig")]
    Kind,
    /// The id belongs to another key.
    #[error("the key's kid is not its RFC 7638 thumbprint")]
    Name,
    /// The operating system returns no random numbers.
    #[error("the operating system returns no random numbers")]
    NoRandom,
}

/// A public Ed25519 key, and the `kid` by which tokens name it: its RFC 7638
/// thumbprint, which is unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kid: String,
    bytes: [u8; 32],
}

impl PublicKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// When they are a point of small order, for which signatures can be made
    /// without a secret, or not written in the one canonical way.
    pub(super) fn of(bytes: [u8; 32]) -> Result<Self, InvalidKey> {
        if is_weak(&bytes) {
            return Err(InvalidKey::Weak);
        }
        // RFC 7638: the required members, in order, without white space.
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(bytes));
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        Ok(Self { kid, bytes })
    }

    /// Reads a key in the format that user-service publishes.
    ///
    /// # Errors
    /// When it is of another kind, weak, or its id is not its thumbprint.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, InvalidKey> {
        let kind = [&jwk.kty[..], &jwk.crv, &jwk.alg, &jwk.r#use];
        if kind != ["OKP", "Ed25519", "EdDSA", "sig"] {
            return Err(InvalidKey::Kind);
        }
        let bytes = URL_SAFE_NO_PAD.decode(&jwk.x).ok().and_then(|bytes| bytes.try_into().ok());
        let key = Self::of(bytes.ok_or(InvalidKey::Length)?)?;
        if key.kid == jwk.kid { Ok(key) } else { Err(InvalidKey::Name) }
    }

    /// The key in the format that user-service publishes.
    #[must_use]
    pub fn to_jwk(&self) -> Jwk {
        Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            kid: self.kid.clone(),
            r#use: "sig".to_owned(),
            alg: "EdDSA".to_owned(),
            x: URL_SAFE_NO_PAD.encode(self.bytes),
        }
    }

    /// The id by which tokens name it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

/// The y coordinates of the points of order 8; those of order 1, 2 and 4 are
/// 1, p − 1 and 0.
const ORDER_EIGHT: [[u8; 32]; 2] = [
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
];

fn is_weak(bytes: &[u8; 32]) -> bool {
    // The last bit is the sign of x; the rest is y, the least byte first.
    let mut y = *bytes;
    y[31] &= 0x7f;
    // p is 2^255 − 19. At p − 1 and above there is nothing but −1 and what is
    // not reduced.
    let from_p_minus_1 = y[0] >= 0xec && y[1..31].iter().all(|byte| *byte == 0xff) && y[31] == 0x7f;
    let zero_or_one = y[0] <= 1 && y[1..].iter().all(|byte| *byte == 0);
    from_p_minus_1 || zero_or_one || ORDER_EIGHT.contains(&y)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A.
    const EXAMPLE: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn jwk() -> Jwk {
        let bytes = URL_SAFE_NO_PAD.decode(EXAMPLE).unwrap();
        PublicKey::of(bytes.try_into().unwrap()).unwrap().to_jwk()
    }

    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        assert_eq!(jwk().kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let key = PublicKey::from_jwk(&jwk()).unwrap();
        assert_eq!(key.to_jwk(), jwk());
    }

    #[test]
    fn keys_of_another_kind_or_id_are_rejected() {
        let refused = |change: fn(&mut Jwk)| {
            let mut jwk = jwk();
            change(&mut jwk);
            PublicKey::from_jwk(&jwk).unwrap_err()
        };
        assert_eq!(refused(|jwk| jwk.kty = "RSA".into()), InvalidKey::Kind);
        assert_eq!(refused(|jwk| jwk.crv = "X25519".into()), InvalidKey::Kind);
        assert_eq!(refused(|jwk| jwk.alg = "HS256".into()), InvalidKey::Kind);
        assert_eq!(refused(|jwk| jwk.r#use = "enc".into()), InvalidKey::Kind);
        assert_eq!(refused(|jwk| jwk.kid = "mine".into()), InvalidKey::Name);
        assert_eq!(refused(|jwk| jwk.x.truncate(20)), InvalidKey::Length);
        assert_eq!(refused(|jwk| jwk.x.push('=')), InvalidKey::Length);
        assert_eq!(refused(|jwk| jwk.x.replace_range(42.., "p")), InvalidKey::Length, "a bit left over");
    }

    #[test]
    fn weak_keys_are_rejected() {
        let with = |first: u8, rest: u8, last: u8| {
            let mut bytes = [rest; 32];
            (bytes[0], bytes[31]) = (first, last);
            bytes
        };
        let mut weak = vec![with(0, 0, 0), with(1, 0, 0), with(0xec, 0xff, 0x7f)];
        weak.extend((0xed..=0xff).map(|first| with(first, 0xff, 0x7f)));
        weak.extend(ORDER_EIGHT);
        for mut bytes in weak {
            assert_eq!(PublicKey::of(bytes), Err(InvalidKey::Weak), "{bytes:x?}");
            bytes[31] |= 0x80;
            assert_eq!(PublicKey::of(bytes), Err(InvalidKey::Weak), "{bytes:x?}");
        }
    }
}
