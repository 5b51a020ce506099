//! The key-value store.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{AgentFull, MAX_KEYS, State};

/// How many deleted keys are remembered, so that a watcher of a prefix sees a deletion as a higher index.
const TOMBSTONES: usize = 16_384;

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
    tombstones: BTreeMap<String, u64>,
    index: u64,
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
        let live = self.under(prefix).map(|(_, entry)| entry.modify).max();
        let dead = self
            .tombstones
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, &index)| index)
            .max();
        live.max(dead).unwrap_or(0)
    }

    fn bury(&mut self, key: String, index: u64) {
        if self.tombstones.len() == TOMBSTONES {
            let oldest = self.tombstones.iter().min_by_key(|(_, index)| **index).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.tombstones.remove(&oldest);
            }
        }
        self.tombstones.insert(key, index);
    }
}

impl State {
    /// Sets a key; an equal value and flags change nothing.
    ///
    /// # Errors
    /// When the agent is full and the key is new.
    pub(crate) fn kv_put(&mut self, key: &str, value: Bytes, flags: u64) -> Result<(), AgentFull> {
        let previous = self.kv.get(key);
        if previous.is_some_and(|entry| entry.value == value && entry.flags == flags) {
            return Ok(());
        }
        if previous.is_none() && self.kv.entries.len() >= MAX_KEYS {
            return Err(AgentFull { most: MAX_KEYS, of: "keys" });
        }
        let create = previous.map(|entry| entry.create);
        let index = self.next_index();
        let entry = Entry { value, flags, create: create.unwrap_or(index), modify: index };
        self.kv.entries.insert(key.to_owned(), entry);
        self.kv.index = index;
        Ok(())
    }

    /// Whether a check-and-set against `expected` may go ahead: 0 means that the key must not exist.
    pub(crate) fn kv_matches(&self, key: &str, expected: u64) -> bool {
        self.kv.get(key).map_or(0, |entry| entry.modify) == expected
    }

    /// Removes a key, if it is there.
    pub(crate) fn kv_delete(&mut self, key: &str) {
        if self.kv.entries.remove(key).is_some() {
            let index = self.next_index();
            self.kv.bury(key.to_owned(), index);
            self.kv.index = index;
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
            self.kv.entries.remove(&key);
            self.kv.bury(key, index);
        }
        self.kv.index = index;
    }
}
