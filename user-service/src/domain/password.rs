//! Passwords, before they are hashed.

use secrecy::{ExposeSecret, SecretString};
use service_kit::value::InvalidValue;

use super::Email;

const MIN_LENGTH: usize = 12;
const MAX_LENGTH: usize = 128;

/// The most common passwords of that length, in lower case.
const COMMON: [&str; 24] = [
    "0123456789ab",
    "012345678901",
    "1234567890123",
    "123456789012",
    "12345678901234567890",
    "1234567890ab",
    "1234567890qwerty",
    "1q2w3e4r5t6y",
    "1qaz2wsx3edc",
    "abcdefghijkl",
    "administrator",
    "changemeplease",
    "iloveyou1234",
    "letmein12345",
    "password1234",
    "password12345",
    "password123456",
    "passwordpassword",
    "qwerty123456",
    "qwertyqwerty",
    "qwertyuiop12",
    "qwertyuiop123",
    "qwertyuiopasdfgh",
    "welcome12345",
];

/// A password that may be set. It is not normalized: two spellings that are equivalent
/// in Unicode (NFKC) are two passwords.
#[derive(Clone, Debug)]
pub struct Password(Candidate);

impl Password {
    /// Parses a password.
    ///
    /// # Errors
    /// When it is too short, too long, or easily guessed.
    pub fn parse(text: String) -> Result<Self, InvalidValue> {
        let candidate = Candidate::parse(text)?;
        let text = candidate.expose();
        if text.chars().count() < MIN_LENGTH {
            return Err(length());
        }
        let first = text.chars().next();
        if COMMON.contains(&text.to_lowercase().as_str()) || text.chars().all(|c| Some(c) == first) {
            return Err(guessed());
        }
        Ok(Self(candidate))
    }

    /// Checks that the account of this address may have it.
    ///
    /// # Errors
    /// When it is the address.
    pub fn suits(&self, email: &Email) -> Result<(), InvalidValue> {
        if self.0.expose().to_lowercase() == email.as_str() { Err(guessed()) } else { Ok(()) }
    }

    /// The candidate, to verify against a stored hash.
    #[must_use]
    pub fn candidate(&self) -> &Candidate {
        &self.0
    }
}

/// A password as a caller has given it. Never shown, and wiped from memory when it is
/// dropped.
#[derive(Clone, Debug)]
pub struct Candidate(SecretString);

impl Candidate {
    /// Parses a candidate.
    ///
    /// # Errors
    /// When its length is not that of a password.
    pub fn parse(text: String) -> Result<Self, InvalidValue> {
        let text = SecretString::from(text);
        let given = text.expose_secret();
        // The bytes bound the work of counting characters.
        if given.is_empty() || given.len() > MAX_LENGTH * 4 || given.chars().count() > MAX_LENGTH {
            return Err(length());
        }
        Ok(Self(text))
    }

    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

fn length() -> InvalidValue {
    InvalidValue(format!("must be {MIN_LENGTH} to {MAX_LENGTH} characters"))
}

fn guessed() -> InvalidValue {
    InvalidValue("is easily guessed; choose another".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Password, InvalidValue> {
        Password::parse(text.to_owned())
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        let letters = |n: usize| (0..n).map(|n| if n % 2 == 0 { 'ä' } else { '🫖' }).collect::<String>();
        assert!(parse(&letters(11)).is_err() && parse(&letters(12)).is_ok());
        assert!(parse(&letters(128)).is_ok() && parse(&letters(129)).is_err());
        assert!(parse(&"long".repeat(1 << 18)).is_err());
    }

    #[test]
    fn an_easily_guessed_password_is_rejected() {
        for bad in COMMON.into_iter().chain(["PassWord1234", "aaaaaaaaaaaaaaaa", "ääääääääääää"])
        {
            assert!(parse(bad).unwrap_err().to_string().starts_with("is easily guessed"), "{bad}");
        }
        let address = Email::parse("Ada@Example.com").unwrap();
        assert!(parse("adA@example.com").unwrap().suits(&address).is_err());
        assert!(parse("correct horse battery").unwrap().suits(&address).is_ok());
    }

    #[test]
    fn a_password_is_never_shown() {
        let password = parse("correct horse battery").unwrap();
        assert!(!format!("{password:?} {:?}", password.candidate()).contains("horse"));
        assert!(!parse("hunter2").unwrap_err().to_string().contains("hunter2"));
    }
}
