//! Refresh tokens.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use secrecy::zeroize::Zeroizing;

use crate::Error;

const SESSION_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
/// The length in base64url without padding.
const TOKEN_LENGTH: usize = 64;

/// A refresh token: the id of its session, and 256 random bits. The id is secret,
/// too, so that no one else can end the session.
#[derive(Clone)]
pub struct RefreshToken {
    bytes: Zeroizing<[u8; SESSION_BYTES + SECRET_BYTES]>,
}

impl RefreshToken {
    /// The first token of a new session.
    ///
    /// # Errors
    /// When the operating system returns no random numbers.
    pub fn new() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; SESSION_BYTES + SECRET_BYTES]);
        fill(&mut *bytes)?;
        Ok(Self { bytes })
    }

    /// The next token of its session.
    ///
    /// # Errors
    /// When the operating system returns no random numbers.
    pub fn next(&self) -> Result<Self, Error> {
        let mut next = self.clone();
        fill(&mut next.bytes[SESSION_BYTES..])?;
        Ok(next)
    }

    /// Parses a token; `None` when it is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != TOKEN_LENGTH {
            return None;
        }
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let bytes: [u8; SESSION_BYTES + SECRET_BYTES] = decoded.as_slice().try_into().ok()?;
        Some(Self { bytes: Zeroizing::new(bytes) })
    }

    /// The token as text, for its owner.
    #[must_use]
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(*self.bytes)
    }

    /// The id of its session.
    #[must_use]
    pub fn session(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.bytes[..SESSION_BYTES])
    }

    /// The hash for the database.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        digest(&SHA256, &self.bytes[SESSION_BYTES..]).as_ref().to_vec()
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| Error::Token("the operating system returns no random numbers".into()))
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_given() {
        let token = RefreshToken::new().unwrap();
        let read = RefreshToken::parse(&token.reveal()).unwrap();
        assert_eq!((read.session(), read.hash()), (token.session(), token.hash()));
        assert_eq!(token.hash().len(), 32);
    }

    #[test]
    fn the_next_token_is_of_the_same_session_and_another() {
        let token = RefreshToken::new().unwrap();
        let next = token.next().unwrap();
        assert_eq!(next.session(), token.session());
        assert_ne!(next.hash(), token.hash());
        assert_ne!(RefreshToken::new().unwrap().session(), token.session());
    }

    #[test]
    fn a_malformed_token_is_not_parsed() {
        let good = RefreshToken::new().unwrap().reveal();
        for bad in
            ["".to_owned(), "a".repeat(63), format!("{good}A"), good.replace(&good[..1], "="), "é".repeat(32)]
        {
            assert!(RefreshToken::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        assert_eq!(format!("{:?}", RefreshToken::new().unwrap()), "RefreshToken(…)");
    }
}
