//! The signing keys of access tokens.

use std::fmt::Display;

use service_kit::{
    auth::{InvalidKey, Signer},
    database::{Error as DatabaseError, Row, Value},
    timestamp::Timestamp,
};

use super::Store;
use crate::key_schedule::KeyPeriod;

/// More than there ever are.
const MAX_KEYS: i64 = 64;

const ALL: &str = "SELECT number, kid, seed, create_time, sign_from, sign_until FROM signing_keys ORDER BY number DESC LIMIT $1";

/// Adds a key; of several replicas that see that it is due, one succeeds.
const ADD: &str = "INSERT INTO signing_keys (number, kid, seed, create_time, sign_from, sign_until) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (number) DO NOTHING";

/// Encrypts a key again, if the row still has its public half.
const ENCRYPT: &str = "UPDATE signing_keys SET seed = $3 WHERE number = $1 AND kid = $2";

const REMOVE: &str = "DELETE FROM signing_keys WHERE number < $1";

/// A signing key with its period.
#[derive(Debug)]
pub struct StoredKey {
    /// The period.
    pub period: KeyPeriod,
    /// The key.
    pub signer: Signer,
    /// True when it is encrypted like a new key, or in clear like a new key.
    pub is_current: bool,
}

impl Store {
    /// Reads the keys, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, DatabaseError> {
        let rows = self.database.rows(ALL, &[MAX_KEYS.into()]).await?;
        rows.iter().map(|row| self.read(row)).collect()
    }

    /// Adds a key, unless another replica has added one with its number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn add_key(&self, key: &StoredKey, now: Timestamp) -> Result<bool, DatabaseError> {
        let StoredKey { period, signer, .. } = key;
        let values: [Value; 6] = [
            period.number.into(),
            signer.kid().into(),
            self.encrypted(signer)?.into(),
            now.micros().into(),
            period.from.micros().into(),
            period.until.micros().into(),
        ];
        let mut open = self.database.begin().await?;
        let added = open.execute(ADD, &values).await?;
        open.commit().await?;
        Ok(added == 1)
    }

    /// Encrypts the secret half of a key again, like that of a new key.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been stored.
    pub async fn re_encrypt(&self, key: &StoredKey) -> Result<(), DatabaseError> {
        let StoredKey { period, signer, .. } = key;
        let values: [Value; 3] = [period.number.into(), signer.kid().into(), self.encrypted(signer)?.into()];
        let mut open = self.database.begin().await?;
        open.execute(ENCRYPT, &values).await?;
        open.commit().await
    }

    /// Deletes the keys before that number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been deleted.
    pub async fn remove_keys_before(&self, number: i64) -> Result<(), DatabaseError> {
        let mut open = self.database.begin().await?;
        open.execute(REMOVE, &[number.into()]).await?;
        open.commit().await
    }

    /// Encrypts the secret half of a key, bound to its id.
    fn encrypted(&self, signer: &Signer) -> Result<Vec<u8>, DatabaseError> {
        self.encryption_keys.encrypt(signer.seed(), signer.kid()).map_err(|why| unreadable(&why))
    }

    fn read(&self, row: &Row) -> Result<StoredKey, DatabaseError> {
        let (kid, stored): (String, Vec<u8>) = (row.get("kid")?, row.get("seed")?);
        let decrypted = self.encryption_keys.decrypt(&stored, &kid).map_err(|why| unreadable(&why))?;
        let signer = Signer::of(decrypted.seed).map_err(|why| unreadable(&why))?;
        if signer.kid() != kid {
            return Err(unreadable(&InvalidKey::Name));
        }
        let period = KeyPeriod {
            number: row.get("number")?,
            from: Timestamp::of_micros(row.get("sign_from")?),
            until: Timestamp::of_micros(row.get("sign_until")?),
        };
        Ok(StoredKey { period, signer, is_current: decrypted.is_current })
    }
}

fn unreadable(why: &dyn Display) -> DatabaseError {
    DatabaseError::corrupt("signing key", why)
}
