//! The secret half of a key.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretBox, SecretString, zeroize::Zeroizing};

use super::InvalidKey;

/// An Ed25519 seed, the 32 bytes that a pair of keys is derived from. It is
/// overwritten when it is dropped, and never shown.
pub struct Seed(SecretBox<[u8; 32]>);

impl Seed {
    /// A new random seed.
    ///
    /// # Errors
    /// When the operating system returns no random numbers.
    pub fn generate() -> Result<Self, InvalidKey> {
        let mut bytes = Box::new([0; 32]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| InvalidKey::NoRandom)?;
        Ok(Self(SecretBox::new(bytes)))
    }

    /// The seed of these bytes.
    ///
    /// # Errors
    /// When they are not 32, or all the same.
    pub fn of(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| InvalidKey::Length)?;
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(InvalidKey::Weak);
        }
        Ok(Self(SecretBox::new(Box::new(*bytes))))
    }

    /// Reads a seed in base64, or in 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is not 32 bytes; the error does not show the text.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidKey> {
        let text = text.expose_secret().trim();
        let bytes = if text.len() == 64 { unhex(text) } else { STANDARD.decode(text).ok() };
        Self::of(&Zeroizing::new(bytes.ok_or(InvalidKey::Length)?))
    }

    /// The bytes, for storage.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }

    /// The seed in base64, for [`parse`](Self::parse).
    #[must_use]
    pub fn to_base64(&self) -> SecretString {
        STANDARD.encode(self.expose()).into()
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|two| Some(digit(two.first()?)? << 4 | digit(two.get(1)?)?)).collect()
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_read_as_it_is_written_and_never_shown() {
        let seed = Seed::generate().unwrap();
        let read = Seed::parse(&seed.to_base64()).unwrap();
        assert_eq!(read.expose(), seed.expose());
        let hex: String = seed.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Seed::parse(&hex.into()).unwrap().expose(), seed.expose());
        assert_eq!(format!("{seed:?}"), "Seed(***)");
        assert_ne!(Seed::generate().unwrap().expose(), seed.expose());
    }

    #[test]
    fn an_invalid_seed_is_rejected_without_showing_it() {
        for text in [
            "",
            "hunter2",
            "AAAA",
            &"g".repeat(64),
            &"7".repeat(64),
            &STANDARD.encode([7; 33]),
            &STANDARD.encode([0; 32]),
        ] {
            let why = Seed::parse(&text.into()).unwrap_err().to_string();
            assert!(why.contains("32 random bytes"), "{why}");
            assert!(text.is_empty() || !why.contains(text), "{why}");
        }
    }
}
