//! The key-value store.

use std::fmt;

use base64::Engine as _;
use http::Method;
use serde::{Deserialize, Deserializer, de};
use tokio::sync::watch as channel;

use super::{
    Client, Error, View,
    error::excerpt,
    http::{HttpCall, HttpResponse},
    path,
    watch::{self, Change, Resource, cursor::BlockingBy, pace::Pace},
    wire::BoundedList,
};

/// A key with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct KvPair {
    /// The key.
    pub key: String,
    /// The value.
    #[serde(deserialize_with = "base64")]
    pub value: Vec<u8>,
    /// Flags of the writer's choice.
    pub flags: u64,
    /// The session that holds a lock on it.
    pub session: Option<String>,
    /// The number of times that it was locked.
    pub lock_index: u64,
    /// The index at which it was created.
    pub create_index: u64,
    /// The index at which it last changed; for compare-and-set.
    pub modify_index: u64,
}

fn base64<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    let decoded = text.map(|text| base64::engine::general_purpose::STANDARD.decode(text)).transpose();
    Ok(decoded.map_err(de::Error::custom)?.unwrap_or_default())
}

impl Client {
    /// The pair of `key`; `None` when it does not exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that does not fit into a path, or any
    /// other.
    pub async fn kv_get(&self, key: &str) -> Result<Option<KvPair>, Error> {
        let key = Key(self.clone(), key.to_owned());
        let response = self.send(key.call()?).await?;
        key.read(&response)
    }

    /// Every pair whose key begins with `prefix`, in order of their keys.
    ///
    /// # Errors
    /// Those of [`kv_get`](Self::kv_get).
    pub async fn kv_list(&self, prefix: &str) -> Result<Vec<KvPair>, Error> {
        let call =
            HttpCall::get(path::of_key(prefix)?, format!("key:list on `{prefix}`")).with("recurse", "");
        let response = self.send(call.clone()).await?;
        if absent(self, &call, &response)? {
            return Ok(Vec::new());
        }
        let BoundedList(pairs) = self.decode(&call, &response)?;
        Ok(pairs)
    }

    /// Stores `value` (at most 512 KiB) under `key`. With `cas` only if the key
    /// last changed at that index, where 0 means that it does not exist;
    /// returns `false` otherwise.
    ///
    /// # Errors
    /// Those of [`kv_get`](Self::kv_get).
    pub async fn kv_put(&self, key: &str, value: &[u8], cas: Option<u64>) -> Result<bool, Error> {
        self.kv_write(Method::PUT, key, value, cas).await
    }

    /// Deletes `key`, with `cas` as for [`kv_put`](Self::kv_put). Returns
    /// `true` also if it did not exist.
    ///
    /// # Errors
    /// Those of [`kv_get`](Self::kv_get).
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
        let mut call = HttpCall::new(method, path::of_key(key)?, format!("key:write on `{key}`"));
        if let Some(index) = cas {
            call = call.with("cas", index.to_string());
        }
        self.fetch(call.body(value.to_vec())).await
    }

    /// Watches `key`: the pair, or `None`, and every change. The watch ends
    /// when the last receiver is dropped. Must be called within a tokio
    /// runtime.
    #[must_use]
    pub fn kv_watch(&self, key: &str) -> channel::Receiver<View<Option<KvPair>>> {
        watch::spawn(self.clone(), Key(self.clone(), key.to_owned()), Pace::default())
    }
}

/// A watched key.
struct Key(Client, String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key `{}`", self.1)
    }
}

impl Resource for Key {
    type Value = Option<KvPair>;
    const BLOCKING: BlockingBy = BlockingBy::Index;

    fn call(&self) -> Result<HttpCall, Error> {
        Ok(HttpCall::get(path::of_key(&self.1)?, format!("key:read on `{}`", self.1)))
    }

    fn read(&self, response: &HttpResponse) -> Result<Option<KvPair>, Error> {
        let call = self.call()?;
        if absent(&self.0, &call, response)? {
            return Ok(None);
        }
        let BoundedList(pairs) = self.0.decode::<BoundedList<KvPair>>(&call, response)?;
        Ok(pairs.into_iter().next())
    }

    fn compare(&self, current: Option<&Option<KvPair>>, new: &Option<KvPair>) -> Change {
        match (current, new) {
            (Some(current), new) if current == new => Change::Same,
            (_, None) => Change::Loses,
            (_, Some(_)) => Change::Differs,
        }
    }
}

/// Checks that a 404 means that the key is absent: it has an index then, and no
/// body. Any other 404 is not Consul's.
fn absent(client: &Client, call: &HttpCall, response: &HttpResponse) -> Result<bool, Error> {
    if response.found {
        return Ok(false);
    }
    if response.meta.index.is_some() {
        return Ok(true);
    }
    let cause = format!("404 without an index ({})", excerpt(&response.body));
    Err(Error::Decode { addr: client.shown_addr(), path: call.path.clone(), cause })
}
