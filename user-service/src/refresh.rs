//! Refresh tokens.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use secrecy::zeroize::Zeroizing;

use crate::Error;

const SESSION: usize = 16;
const SECRET: usize = 32;
/// In base64url without padding.
const LENGTH: usize = 64;

/// A refresh token: which session it is of, and 256 random bits. The session is
/// known to nobody else either, so that nobody ends another's.
#[derive(Clone)]
pub struct RefreshToken {
    bytes: Zeroizing<[u8; SESSION + SECRET]>,
}

impl RefreshToken {
    /// The first one of a new session.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; SESSION + SECRET]);
        fill(&mut *bytes)?;
        Ok(Self { bytes })
    }

    /// The one that follows it in its session.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn next(&self) -> Result<Self, Error> {
        let mut next = self.clone();
        fill(&mut next.bytes[SESSION..])?;
        Ok(next)
    }

    /// Reads a token; `None` when it cannot be one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != LENGTH {
            return None;
        }
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let bytes: [u8; SESSION + SECRET] = decoded.as_slice().try_into().ok()?;
        Some(Self { bytes: Zeroizing::new(bytes) })
    }

    /// The token as its owner gets it.
    #[must_use]
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(*self.bytes)
    }

    /// Which session it is of.
    #[must_use]
    pub fn session(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.bytes[..SESSION])
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        digest(&SHA256, &self.bytes[SESSION..]).as_ref().to_vec()
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    SystemRandom::new().fill(bytes).map_err(|_| Error::Token("the system gives no random numbers".into()))
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
    fn what_is_no_token_is_not_read() {
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
