//! The keys that access tokens are signed with.

use std::fmt::Display;

use service_kit::{
    auth::{InvalidKey, Signer},
    database::{Error as DatabaseError, Row, Value},
    timestamp::Timestamp,
};

use super::Store;
use crate::keys::Times;

/// More than ever are there at once.
const MOST: i64 = 64;

const ALL: &str = "SELECT number, kid, seed, create_time, sign_from, sign_until FROM signing_keys ORDER BY number DESC LIMIT $1";

/// Of the replicas that see that a key is missing, one adds it.
const ADD: &str = "INSERT INTO signing_keys (number, kid, seed, create_time, sign_from, sign_until) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (number) DO NOTHING";

/// The public half stays, by which it is told from another in its place.
const ENCRYPT: &str = "UPDATE signing_keys SET seed = $3 WHERE number = $1 AND kid = $2";

const REMOVE: &str = "DELETE FROM signing_keys WHERE number < $1";

/// A key with its place in the row.
#[derive(Debug)]
pub struct StoredKey {
    /// When it is what.
    pub times: Times,
    /// The key itself.
    pub signer: Signer,
    /// Whether it is stored as new ones are: encrypted under the same key, or
    /// in clear.
    pub is_current: bool,
}

impl Store {
    /// The keys that are there, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, DatabaseError> {
        let rows = self.database.rows(ALL, &[MOST.into()]).await?;
        rows.iter().map(|row| self.read(row)).collect()
    }

    /// Adds the key of that number, unless another replica has.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn add_key(&self, key: &StoredKey, now: Timestamp) -> Result<bool, DatabaseError> {
        let StoredKey { times, signer, .. } = key;
        let values: [Value; 6] = [
            times.number.into(),
            signer.kid().into(),
            self.encrypted(signer)?.into(),
            now.micros().into(),
            times.from.micros().into(),
            times.until.micros().into(),
        ];
        let mut open = self.database.begin().await?;
        let added = open.execute(ADD, &values).await?;
        open.commit().await?;
        Ok(added == 1)
    }

    /// Stores the secret half of a key anew, as new ones are stored.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been stored.
    pub async fn encrypt_again(&self, key: &StoredKey) -> Result<(), DatabaseError> {
        let StoredKey { times, signer, .. } = key;
        let values: [Value; 3] = [times.number.into(), signer.kid().into(), self.encrypted(signer)?.into()];
        let mut open = self.database.begin().await?;
        open.execute(ENCRYPT, &values).await?;
        open.commit().await
    }

    /// Removes the keys before that number.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// They may have been removed.
    pub async fn remove_keys_before(&self, number: i64) -> Result<(), DatabaseError> {
        let mut open = self.database.begin().await?;
        open.execute(REMOVE, &[number.into()]).await?;
        open.commit().await
    }

    /// Bound to the key that it is the secret half of.
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
        let times = Times {
            number: row.get("number")?,
            from: Timestamp::of_micros(row.get("sign_from")?),
            until: Timestamp::of_micros(row.get("sign_until")?),
        };
        Ok(StoredKey { times, signer, is_current: decrypted.is_current })
    }
}

fn unreadable(why: &dyn Display) -> DatabaseError {
    DatabaseError::corrupt("signing key", why)
}
