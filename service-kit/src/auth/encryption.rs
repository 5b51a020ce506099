//! The keys under which the secret halves of signing keys are encrypted where
//! they are stored.

use std::{fmt, sync::Arc};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

use super::{InvalidKey, Seed};

/// What [`EncryptionKeys::encrypt`] writes first.
const VERSION: u8 = 1;
/// How many bytes name the key.
const ID: usize = 4;
/// The most keys in a list: one that encrypts, and what is left of others.
const MOST: usize = 8;
/// How a list says that seeds are stored as they are.
const NONE: &str = "none";

/// A list of keys, each 32 random bytes: the first encrypts, all decrypt. In
/// place of a key it may hold `none`, for seeds that are stored in clear. Cheap
/// to clone; never shown.
///
/// A key replaces another without an interruption in three steps, each on
/// every replica before the next: `OLD,NEW`, so that all can read what is
/// encrypted under the new one; `NEW,OLD`, which encrypts anew what is stored;
/// `NEW`.
#[derive(Clone)]
pub struct EncryptionKeys(Arc<[Method]>);

enum Method {
    Clear,
    Aead { id: [u8; ID], key: Box<LessSafeKey> },
}

/// A seed as it was stored.
#[derive(Debug)]
pub struct Decrypted {
    /// The seed.
    pub seed: Seed,
    /// Whether it is stored as the first of the list stores it.
    pub is_current: bool,
}

/// A stored seed that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// It is encrypted, and the list lacks the key.
    #[error("it is encrypted under the key {id}, which is not in AUTH_ENCRYPTION_KEYS ({known})")]
    UnknownKey {
        /// The id of the key.
        id: String,
        /// The ids of those in the list.
        known: String,
    },
    /// It is in clear, and the list says that none is.
    #[error(
        "it is not encrypted; to encrypt it, add `none` at the end of AUTH_ENCRYPTION_KEYS until every replica has \
         started"
    )]
    NotEncrypted,
    /// It is another row's, or was changed.
    #[error("it does not decrypt: it is another key's, or was changed")]
    Changed,
    /// It is no seed.
    #[error("{0}")]
    Invalid(#[from] InvalidKey),
}

impl EncryptionKeys {
    /// No key: seeds are stored in clear.
    #[must_use]
    pub fn none() -> Self {
        Self([Method::Clear].into())
    }

    /// Reads a list, separated by commas or white space: keys in base64 or
    /// hexadecimal digits, or `none`.
    ///
    /// # Errors
    /// Says which is no key, by its place; the text is not repeated.
    pub fn parse(text: &SecretString) -> Result<Self, String> {
        let words = text.expose_secret().split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
        let methods = words.enumerate().map(|(n, word)| {
            Method::parse(word).map_err(|why| format!("of the keys in the list, number {}: {why}", n + 1))
        });
        let methods = methods.collect::<Result<Vec<_>, _>>()?;
        if methods.is_empty() || methods.len() > MOST {
            return Err(format!("a list of 1 to {MOST} keys is wanted, and has {}", methods.len()));
        }
        Ok(Self(methods.into()))
    }

    /// Whether seeds are stored encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        matches!(self.0.first(), Some(Method::Aead { .. }))
    }

    /// What to store of `seed`. It can be read only with the same `context`,
    /// which names the place where it is kept.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn encrypt(&self, seed: &Seed, context: &str) -> Result<Vec<u8>, InvalidKey> {
        let Some(Method::Aead { id, key }) = self.0.first() else { return Ok(seed.expose().to_vec()) };
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| InvalidKey::NoRandom)?;
        let mut body = seed.expose().to_vec();
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.as_bytes()),
                &mut body,
            )
            .map_err(|_| InvalidKey::Length)?;
        Ok([&[VERSION][..], id, &nonce, &body, tag.as_ref()].concat())
    }

    /// The seed of which [`encrypt`](Self::encrypt) made `stored`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn decrypt(&self, stored: &[u8], context: &str) -> Result<Decrypted, DecryptError> {
        let place = |of: &dyn Fn(&Method) -> bool| self.0.iter().position(of);
        // No other length is stored, so that nothing is taken for the other.
        if stored.len() == 32 {
            let place = place(&|method| matches!(method, Method::Clear)).ok_or(DecryptError::NotEncrypted)?;
            return Ok(Decrypted { seed: Seed::of(stored)?, is_current: place == 0 });
        }
        let (Some((&VERSION, rest)), true) = (stored.split_first(), stored.len() > 1 + ID + NONCE_LEN) else {
            return Err(DecryptError::Changed);
        };
        let (id, rest) = rest.split_at(ID);
        let (nonce, body) = rest.split_at(NONCE_LEN);
        let has = |method: &Method| matches!(method, Method::Aead { id: own, .. } if own == id);
        let place = place(&has).ok_or_else(|| self.unknown(id))?;
        let Some(Method::Aead { key, .. }) = self.0.get(place) else { return Err(self.unknown(id)) };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| DecryptError::Changed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let bytes = key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut body)
            .map_err(|_| DecryptError::Changed)?;
        Ok(Decrypted { seed: Seed::of(bytes)?, is_current: place == 0 })
    }

    fn unknown(&self, id: &[u8]) -> DecryptError {
        let known: Vec<_> = self.0.iter().map(Method::name).collect();
        DecryptError::UnknownKey { id: hex(id), known: known.join(", ") }
    }
}

impl Method {
    fn parse(word: &str) -> Result<Self, InvalidKey> {
        if word == NONE {
            return Ok(Self::Clear);
        }
        let bytes = Seed::parse(&word.into())?;
        let key = UnboundKey::new(&AES_256_GCM, bytes.expose()).map_err(|_| InvalidKey::Length)?;
        let named = Zeroizing::new([b"signing keys at rest ".as_slice(), bytes.expose()].concat());
        let mut id = [0; ID];
        id.copy_from_slice(&digest(&SHA256, &named).as_ref()[..ID]);
        Ok(Self::Aead { id, key: Box::new(LessSafeKey::new(key)) })
    }

    /// What tells one from another and may be shown.
    fn name(&self) -> String {
        match self {
            Self::Clear => NONE.to_owned(),
            Self::Aead { id, .. } => hex(id),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for EncryptionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(Method::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
    const NEW: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";

    fn keys(list: &str) -> EncryptionKeys {
        EncryptionKeys::parse(&list.into()).unwrap()
    }

    #[test]
    fn every_step_of_a_rotation_reads_what_the_one_before_and_the_one_after_write() {
        let seed = Seed::generate().unwrap();
        let steps = ["none", &format!("none,{OLD}"), &format!("{OLD},none"), OLD].map(keys);
        let rotation = [OLD.to_owned(), format!("{OLD}, {NEW}"), format!("{NEW}\n{OLD}\n"), NEW.to_owned()];
        for steps in [steps, rotation.each_ref().map(|list| keys(list))] {
            for pair in steps.windows(2) {
                for (writes, reads) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                    let stored = writes.encrypt(&seed, "7").unwrap();
                    let read = reads.decrypt(&stored, "7").unwrap();
                    assert_eq!(read.seed.expose(), seed.expose());
                    let again = reads.encrypt(&seed, "7").unwrap();
                    let same_method =
                        stored.len() == again.len() && (stored.len() == 32 || stored[..5] == again[..5]);
                    assert_eq!(read.is_current, same_method, "{writes:?} {reads:?}");
                }
            }
        }
        assert!(keys(OLD).encrypts() && !keys("none").encrypts() && !EncryptionKeys::none().encrypts());
    }

    #[test]
    fn what_is_stored_says_nothing_and_is_bound_to_its_place() {
        let seed = Seed::generate().unwrap();
        let keys = keys(OLD);
        let stored = keys.encrypt(&seed, "7").unwrap();
        assert!(!stored.windows(8).any(|part| seed.expose().windows(8).any(|secret| secret == part)));
        assert_ne!(stored, keys.encrypt(&seed, "7").unwrap(), "a nonce is used once");
        assert_eq!(keys.decrypt(&stored, "8").unwrap_err(), DecryptError::Changed);
        for byte in 0..stored.len() {
            let mut changed = stored.clone();
            changed[byte] ^= 1;
            keys.decrypt(&changed, "7").unwrap_err();
        }
        for length in (0..stored.len()).filter(|length| *length != 32) {
            keys.decrypt(&stored[..length], "7").unwrap_err();
        }
    }

    #[test]
    fn a_key_that_is_missing_is_named_and_none_is_shown() {
        let seed = Seed::generate().unwrap();
        let (old, new) = (keys(OLD), keys(NEW));
        let why = new.decrypt(&old.encrypt(&seed, "7").unwrap(), "7").unwrap_err().to_string();
        let id = |keys: &EncryptionKeys| keys.0[0].name();
        assert!(why.contains(&id(&old)) && why.contains(&id(&new)), "{why}");
        let none = EncryptionKeys::none().decrypt(&old.encrypt(&seed, "7").unwrap(), "7").unwrap_err();
        assert!(none.to_string().contains("(none)"), "{none}");
        let clear = old.decrypt(seed.expose(), "7").unwrap_err();
        assert_eq!(clear, DecryptError::NotEncrypted);
        assert_eq!(
            format!("{:?}", keys(&format!("none {OLD}"))),
            format!("[\"none\", \"{}\"]", id(&old)).replace('"', "\"")
        );
    }

    #[test]
    fn a_bad_list_is_refused_by_the_place_in_it() {
        for (list, place) in [
            ("", "has 0"),
            (" ,\n", "has 0"),
            ("hunter2", "number 1"),
            (&format!("{OLD},hunter2"), "number 2"),
            (&["none"; 9].join(","), "has 9"),
        ] {
            let why = EncryptionKeys::parse(&list.into()).unwrap_err();
            assert!(why.contains(place) && !why.contains("hunter2") && !why.contains(OLD), "{why}");
        }
    }
}
