//! The keys that access tokens are signed with.

use service_kit::{
    auth::{Seed, Signer},
    database::{Error as DatabaseError, Row, Value},
    timestamp::Timestamp,
};

use super::Store;
use crate::keys::Times;

/// More than ever are there at once.
const MOST: i64 = 64;

const ALL: &str =
    "SELECT number, seed, create_time, sign_from, sign_until FROM signing_keys ORDER BY number DESC LIMIT $1";

/// Of the replicas that see that a key is missing, one adds it.
const ADD: &str = "INSERT INTO signing_keys (number, kid, seed, create_time, sign_from, sign_until) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (number) DO NOTHING";

const REMOVE: &str = "DELETE FROM signing_keys WHERE number < $1";

/// A key with its place in the row.
#[derive(Debug)]
pub struct StoredKey {
    /// When it is what.
    pub times: Times,
    /// The key itself.
    pub signer: Signer,
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
        rows.iter().map(read).collect()
    }

    /// Adds the key of that number, unless another replica has.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn add_key(&self, key: &StoredKey, now: Timestamp) -> Result<bool, DatabaseError> {
        let StoredKey { times, signer } = key;
        let values: [Value; 6] = [
            times.number.into(),
            signer.kid().into(),
            signer.seed().expose().to_vec().into(),
            now.micros().into(),
            times.from.micros().into(),
            times.until.micros().into(),
        ];
        let mut open = self.database.begin().await?;
        let added = open.execute(ADD, &values).await?;
        open.commit().await?;
        Ok(added == 1)
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
}

fn read(row: &Row) -> Result<StoredKey, DatabaseError> {
    let seed = Seed::of(&row.get::<Vec<u8>>("seed")?).and_then(Signer::of);
    let times = Times {
        number: row.get("number")?,
        from: Timestamp::of_micros(row.get("sign_from")?),
        until: Timestamp::of_micros(row.get("sign_until")?),
    };
    Ok(StoredKey { times, signer: seed.map_err(|why| DatabaseError::corrupt("signing key", why))? })
}
