//! The key-value store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{AgentState, CapacityExceeded, MAX_KEYS};

/// The limit on the bytes of all keys and values. Consul limits only each value; here a listing of all is built in
/// memory.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The limit on deleted keys that are kept, so that a watcher of a prefix sees a deletion as a higher
/// index.
const MAX_TOMBSTONES: usize = 16_384;

/// The limit on the bytes of all deleted keys that are kept.
const MAX_TOMBSTONE_BYTES: usize = 2 * 1024 * 1024;

/// The value of a key.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) flags: u64,
    pub(crate) create: u64,
    pub(crate) modify: u64,
}

/// Keys, in their order.
#[derive(Debug, Default)]
pub(crate) struct Kv {
    entries: BTreeMap<String, Entry>,
    /// The size of all keys and values.
    bytes: usize,
    tombstones: Tombstones,
    index: u64,
}

/// The deleted keys and the index at which each was deleted, by key and by age.
#[derive(Debug, Default)]
struct Tombstones {
    by_key: BTreeMap<Arc<str>, u64>,
    by_age: BTreeSet<(u64, Arc<str>)>,
    bytes: usize,
}

impl Tombstones {
    /// Adds a key and evicts the oldest ones beyond the bounds.
    fn add(&mut self, key: &str, index: u64) {
        let key: Arc<str> = key.into();
        self.bytes += key.len();
        self.by_age.insert((index, Arc::clone(&key)));
        if let Some(earlier) = self.by_key.insert(Arc::clone(&key), index) {
            self.bytes -= key.len();
            self.by_age.remove(&(earlier, key));
        }
        while self.by_key.len() > MAX_TOMBSTONES || self.bytes > MAX_TOMBSTONE_BYTES {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.by_key.remove(&oldest);
            self.bytes -= oldest.len();
        }
    }

    /// The index of the last deletion of a key that starts with `prefix`.
    fn index_under(&self, prefix: &str) -> Option<u64> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let under = self.by_key.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        under.map(|(_, &index)| index).max()
    }
}

impl Kv {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every key that starts with `prefix`, in order.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        self.entries.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The index of the last change to any key.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// The index of the last change to a key that starts with `prefix`; 0 if none is known.
    pub(crate) fn index_under(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.index;
        }
        let live_index = self.under(prefix).map(|(_, entry)| entry.modify).max();
        let deleted_index = self.tombstones.index_under(prefix);
        live_index.max(deleted_index).unwrap_or(0)
    }

    /// Removes an existing key and adds a tombstone.
    fn remove(&mut self, key: &str, index: u64) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= key.len() + entry.value.len();
        }
        self.tombstones.add(key, index);
        self.index = index;
    }
}

impl AgentState {
    /// Sets a key; an equal value and flags change nothing.
    ///
    /// # Errors
    /// When a limit on keys or bytes is reached.
    pub(crate) fn kv_put(&mut self, key: &str, value: &[u8], flags: u64) -> Result<(), CapacityExceeded> {
        let previous = self.kv.get(key);
        if previous.is_some_and(|entry| entry.value == value && entry.flags == flags) {
            return Ok(());
        }
        if previous.is_none() && self.kv.entries.len() >= MAX_KEYS {
            return Err(CapacityExceeded { max: MAX_KEYS, resource: "keys" });
        }
        let replaced = previous.map_or(0, |entry| key.len() + entry.value.len());
        let bytes = self.kv.bytes - replaced + key.len() + value.len();
        // A write that reduces the size is accepted even at the limit.
        if bytes > MAX_BYTES && bytes > self.kv.bytes {
            return Err(CapacityExceeded { max: MAX_BYTES, resource: "bytes of keys and values" });
        }
        let create = previous.map(|entry| entry.create);
        let index = self.next_index();
        // A copy: the request's buffer is larger than the value, and must not live as long.
        let value = Bytes::copy_from_slice(value);
        let entry = Entry { value, flags, create: create.unwrap_or(index), modify: index };
        self.kv.entries.insert(key.to_owned(), entry);
        self.kv.bytes = bytes;
        self.kv.index = index;
        Ok(())
    }

    /// Returns whether a check-and-set against `expected` succeeds: 0 means that the key must not
    /// exist.
    pub(crate) fn kv_matches(&self, key: &str, expected: u64) -> bool {
        self.kv.get(key).map_or(0, |entry| entry.modify) == expected
    }

    /// Removes a key, if it is there.
    pub(crate) fn kv_delete(&mut self, key: &str) {
        if self.kv.entries.contains_key(key) {
            let index = self.next_index();
            self.kv.remove(key, index);
        }
    }

    /// Removes every key that starts with `prefix`.
    pub(crate) fn kv_delete_under(&mut self, prefix: &str) {
        let keys: Vec<String> = self.kv.under(prefix).map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return;
        }
        let index = self.next_index();
        for key in keys {
            self.kv.remove(&key, index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> AgentState {
        let [id, name, datacenter, address] = ["n", "n", "dc1", "127.0.0.1"].map(str::to_owned);
        AgentState::new(crate::model::Node { id, name, datacenter, address, port: 1 })
    }

    #[test]
    fn the_bytes_of_all_keys_and_values_are_bounded() {
        let mut state = state();
        let value = vec![0; 512 * 1024];
        let taken = (0..100).take_while(|n| state.kv_put(&format!("big/{n}"), &value, 0).is_ok()).count();
        assert_eq!(taken, 31);
        assert!(state.kv_put("small", b"fits", 0).is_ok());
        // Full of keys, it still takes what is smaller, and gives its room back.
        assert!(state.kv_put("big/0", b"less", 0).is_ok());
        assert!(state.kv_put("big/0", &value, 0).is_ok());
        state.kv_delete("big/1");
        assert!(state.kv_put("big/100", &value, 0).is_ok());
        assert!(state.kv_put("big/101", &value, 0).is_err());
        state.kv_delete_under("");
        assert_eq!(state.kv.bytes, 0);
    }

    #[test]
    fn the_deleted_keys_that_are_remembered_are_bounded() {
        let mut state = state();
        for n in 0..3_000 {
            let key = format!("{n}{}", "x".repeat(1_000));
            state.kv_put(&key, b"", 0).unwrap();
            state.kv_delete(&key);
        }
        let Tombstones { by_key, by_age, bytes } = &state.kv.tombstones;
        assert!(*bytes <= MAX_TOMBSTONE_BYTES && by_key.len() == by_age.len());
        assert_eq!(by_key.keys().map(|key| key.len()).sum::<usize>(), *bytes);
        assert!(state.kv.index_under("2999") > 0, "the youngest is remembered");
        assert_eq!(state.kv.index_under("0x"), 0, "the oldest is forgotten");
        for _ in 0..20_000 {
            state.kv_put("again", b"", 0).unwrap();
            state.kv_delete("again");
        }
        assert!(state.kv.index_under("2999") > 0, "one key takes one place");
    }

    #[test]
    fn deleting_all_keys_takes_time_in_proportion_to_their_number() {
        let mut state = state();
        for n in 0..MAX_KEYS {
            state.kv_put(&format!("a/{n}"), b"", 0).unwrap();
        }
        let started = std::time::Instant::now();
        state.kv_delete_under("a/");
        // A walk over all tombstones for each key would be 1.4 billion steps.
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!(state.kv.tombstones.by_key.len(), MAX_TOMBSTONES);
    }
}
