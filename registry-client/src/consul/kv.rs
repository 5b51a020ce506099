//! The key-value store.

use std::fmt;

use base64::Engine as _;
use http::Method;
use serde::{Deserialize, Deserializer, de};
use tokio::sync::watch as channel;

use super::{
    Client, Error, View,
    error::said,
    http::{Answer, Call},
    path,
    watch::{self, Change, Resource, cursor::By, pace::Pace},
    wire::Bounded,
};

/// A key and what is stored under it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct KvPair {
    /// The key.
    pub key: String,
    /// The bytes stored.
    #[serde(deserialize_with = "base64")]
    pub value: Vec<u8>,
    /// A number of the writer's choice.
    pub flags: u64,
    /// The session that holds a lock on it.
    pub session: Option<String>,
    /// How often it was locked.
    pub lock_index: u64,
    /// When it was created.
    pub create_index: u64,
    /// When it last changed; for compare-and-set.
    pub modify_index: u64,
}

fn base64<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    let decoded = text.map(|text| base64::engine::general_purpose::STANDARD.decode(text)).transpose();
    Ok(decoded.map_err(de::Error::custom)?.unwrap_or_default())
}

impl Client {
    /// What is stored under `key`; `None` when nothing is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that no path can carry, or any other.
    pub async fn kv_get(&self, key: &str) -> Result<Option<KvPair>, Error> {
        let key = Key(self.clone(), key.to_owned());
        let answer = self.send(key.call()?).await?;
        key.read(&answer)
    }

    /// Every pair whose key begins with `prefix`, in order of their keys.
    ///
    /// # Errors
    /// As [`kv_get`](Self::kv_get).
    pub async fn kv_list(&self, prefix: &str) -> Result<Vec<KvPair>, Error> {
        let call = Call::get(path::of_key(prefix)?, format!("key:list on `{prefix}`")).with("recurse", "");
        let answer = self.send(call.clone()).await?;
        if absent(self, &call, &answer)? {
            return Ok(Vec::new());
        }
        let Bounded(pairs) = self.decode(&call, &answer)?;
        Ok(pairs)
    }

    /// Stores `value` (at most 512 KiB) under `key`. With `cas` only when the
    /// key was last changed at that index, 0 meaning that it does not exist;
    /// false when that does not hold.
    ///
    /// # Errors
    /// As [`kv_get`](Self::kv_get).
    pub async fn kv_put(&self, key: &str, value: &[u8], cas: Option<u64>) -> Result<bool, Error> {
        self.kv_write(Method::PUT, key, value, cas).await
    }

    /// Deletes `key`, with `cas` as for [`kv_put`](Self::kv_put). True also
    /// when there was nothing.
    ///
    /// # Errors
    /// As [`kv_get`](Self::kv_get).
    pub async fn kv_delete(&self, key: &str, cas: Option<u64>) -> Result<bool, Error> {
        self.kv_write(Method::DELETE, key, &[], cas).await
    }

    async fn kv_write(
        &self,
        method: Method,
        key: &str,
        value: &[u8],
        cas: Option<u64>,
    ) -> Result<bool, Error> {
        let mut call = Call::new(method, path::of_key(key)?, format!("key:write on `{key}`"));
        if let Some(index) = cas {
            call = call.with("cas", index.to_string());
        }
        self.fetch(call.body(value.to_vec())).await
    }

    /// Follows `key`: the pair, or that there is none, and every change. The
    /// watch ends when the last receiver is dropped. Called within a tokio
    /// runtime.
    #[must_use]
    pub fn kv_watch(&self, key: &str) -> channel::Receiver<View<Option<KvPair>>> {
        watch::spawn(self.clone(), Key(self.clone(), key.to_owned()), Pace::default())
    }
}

/// A key that is followed.
struct Key(Client, String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key `{}`", self.1)
    }
}

impl Resource for Key {
    type Value = Option<KvPair>;
    const BY: By = By::Index;

    fn call(&self) -> Result<Call, Error> {
        Ok(Call::get(path::of_key(&self.1)?, format!("key:read on `{}`", self.1)))
    }

    fn read(&self, answer: &Answer) -> Result<Option<KvPair>, Error> {
        let call = self.call()?;
        if absent(&self.0, &call, answer)? {
            return Ok(None);
        }
        let Bounded(pairs) = self.0.decode::<Bounded<KvPair>>(&call, answer)?;
        Ok(pairs.into_iter().next())
    }

    fn compare(&self, held: Option<&Option<KvPair>>, new: &Option<KvPair>) -> Change {
        match (held, new) {
            (Some(held), new) if held == new => Change::Same,
            (_, None) => Change::Loses,
            (_, Some(_)) => Change::Differs,
        }
    }
}

/// Returns whether a 404 says that the key is absent: it has an index then, and
/// no body. Any other 404 is somebody else's.
fn absent(client: &Client, call: &Call, answer: &Answer) -> Result<bool, Error> {
    if answer.found {
        return Ok(false);
    }
    if answer.meta.index.is_some() {
        return Ok(true);
    }
    let cause = format!("404 without an index ({})", said(&answer.body));
    Err(Error::Decode { addr: client.shown(), path: call.path.clone(), cause })
}
