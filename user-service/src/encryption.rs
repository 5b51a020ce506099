//! The encryption of signing keys at rest.

use std::{fmt, sync::Arc};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

use service_kit::auth::{InvalidKey, Seed};

/// The first byte of an encrypted seed.
const FORMAT_VERSION: u8 = 1;
/// The length of a key's id in bytes.
const ID_LENGTH: usize = 4;
/// The most keys in a list.
const MAX_KEYS: usize = 8;
/// The entry of a list that stands for no encryption.
const NONE: &str = "none";

/// A list of keys, each 32 random bytes: the first encrypts, all decrypt. The
/// entry `none` stands for seeds that are stored in clear. Cheap to clone; never
/// shown.
///
/// A rotation without an interruption has three steps, each on every replica
/// before the next: `OLD,NEW`, so that all replicas can decrypt with the new key;
/// `NEW,OLD`, which encrypts the stored seeds again; `NEW`.
#[derive(Clone)]
pub struct EncryptionKeys(Arc<[Method]>);

enum Method {
    Clear,
    Aead { id: [u8; ID_LENGTH], key: Box<LessSafeKey> },
}

/// A decrypted seed.
#[derive(Debug)]
pub struct Decrypted {
    /// The seed.
    pub seed: Seed,
    /// True when it was stored by the first method of the list.
    pub is_current: bool,
}

/// The reason why a stored seed cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// The list lacks its key.
    #[error("it is encrypted under the key {id}, which is not in AUTH_ENCRYPTION_KEYS ({known})")]
    UnknownKey {
        /// The id of the key.
        id: String,
        /// The ids of the keys in the list.
        known: String,
    },
    /// It is in clear, and the list has no `none`.
    #[error(
        "it is not encrypted; to encrypt it, add `none` at the end of AUTH_ENCRYPTION_KEYS until every replica has \
         started"
    )]
    NotEncrypted,
    /// It belongs to another row, or was modified.
    #[error("it does not decrypt: it belongs to another row, or was modified")]
    Modified,
    /// The decrypted bytes are no seed.
    #[error("{0}")]
    Invalid(#[from] InvalidKey),
}

impl EncryptionKeys {
    /// A list without keys: seeds are stored in clear.
    #[must_use]
    pub fn none() -> Self {
        Self([Method::Clear].into())
    }

    /// Reads a list, separated by commas or white space: keys in base64 or
    /// hexadecimal digits, or `none`.
    ///
    /// # Errors
    /// When an entry is no key. The error gives its position, not its text.
    pub fn parse(text: &SecretString) -> Result<Self, String> {
        let words = text.expose_secret().split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
        let methods = words
            .enumerate()
            .map(|(n, word)| Method::parse(word).map_err(|why| format!("entry number {}: {why}", n + 1)));
        let methods = methods.collect::<Result<Vec<_>, _>>()?;
        if methods.is_empty() || methods.len() > MAX_KEYS {
            return Err(format!("the list must have 1 to {MAX_KEYS} keys, and has {}", methods.len()));
        }
        Ok(Self(methods.into()))
    }

    /// True when seeds are stored encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        matches!(self.0.first(), Some(Method::Aead { .. }))
    }

    /// Encrypts `seed` for storage. Decrypting needs the same `context`, which names
    /// the row.
    ///
    /// # Errors
    /// When the operating system returns no random numbers.
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
        Ok([&[FORMAT_VERSION][..], id, &nonce, &body, tag.as_ref()].concat())
    }

    /// Decrypts the result of [`encrypt`](Self::encrypt).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn decrypt(&self, stored: &[u8], context: &str) -> Result<Decrypted, DecryptError> {
        let position = |of: &dyn Fn(&Method) -> bool| self.0.iter().position(of);
        // An encrypted seed never has this length.
        if stored.len() == 32 {
            let is_clear = |method: &Method| matches!(method, Method::Clear);
            let position = position(&is_clear).ok_or(DecryptError::NotEncrypted)?;
            return Ok(Decrypted { seed: Seed::of(stored)?, is_current: position == 0 });
        }
        let is_long_enough = stored.len() > 1 + ID_LENGTH + NONCE_LEN;
        let (Some((&FORMAT_VERSION, rest)), true) = (stored.split_first(), is_long_enough) else {
            return Err(DecryptError::Modified);
        };
        let (id, rest) = rest.split_at(ID_LENGTH);
        let (nonce, body) = rest.split_at(NONCE_LEN);
        let has = |method: &Method| matches!(method, Method::Aead { id: own, .. } if own == id);
        let position = position(&has).ok_or_else(|| self.unknown(id))?;
        let Some(Method::Aead { key, .. }) = self.0.get(position) else { return Err(self.unknown(id)) };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| DecryptError::Modified)?;
        let mut body = Zeroizing::new(body.to_vec());
        let bytes = key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut body)
            .map_err(|_| DecryptError::Modified)?;
        Ok(Decrypted { seed: Seed::of(bytes)?, is_current: position == 0 })
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
        let mut id = [0; ID_LENGTH];
        id.copy_from_slice(&digest(&SHA256, &named).as_ref()[..ID_LENGTH]);
        Ok(Self::Aead { id, key: Box::new(LessSafeKey::new(key)) })
    }

    /// The public name: the id of the key, or `none`.
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
    fn an_encrypted_seed_shows_nothing_and_is_bound_to_its_row() {
        let seed = Seed::generate().unwrap();
        let keys = keys(OLD);
        let stored = keys.encrypt(&seed, "7").unwrap();
        assert!(!stored.windows(8).any(|part| seed.expose().windows(8).any(|secret| secret == part)));
        assert_ne!(stored, keys.encrypt(&seed, "7").unwrap(), "a nonce is used once");
        assert_eq!(keys.decrypt(&stored, "8").unwrap_err(), DecryptError::Modified);
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
    fn an_invalid_list_is_rejected_by_the_position_in_it() {
        for (list, position) in [
            ("", "has 0"),
            (" ,\n", "has 0"),
            ("hunter2", "number 1"),
            (&format!("{OLD},hunter2"), "number 2"),
            (&["none"; 9].join(","), "has 9"),
        ] {
            let why = EncryptionKeys::parse(&list.into()).unwrap_err();
            assert!(why.contains(position) && !why.contains("hunter2") && !why.contains(OLD), "{why}");
        }
    }
}
