//! Blocking queries: waiting until the state has passed an index.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::store::{Indexed, State, Store};

/// How a query sees the state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The index that the answer carries.
    pub(crate) index: u64,
    /// Moves when what is watched changes. A higher index alone is not looked at until this moves.
    pub(crate) version: u64,
    /// There is nothing there: as long as that stays so, a higher index does not wake.
    pub(crate) missing: bool,
}

impl Seen {
    /// A query that is woken by every move of its index.
    pub(crate) fn at(index: u64) -> Self {
        Self { index, version: index, missing: false }
    }

    /// A query for `records` under a table's index, woken only by a change of one of them. Where there are none, any
    /// move of the index may be the first.
    pub(crate) fn of<'a, T: 'a>(index: u64, records: impl Iterator<Item = &'a Indexed<T>>) -> Self {
        let mix = |version: u64, record: &Indexed<T>| {
            (version ^ record.modify).wrapping_mul(0x0100_0000_01b3).wrapping_add(record.create)
        };
        let version = records.fold(0, mix);
        Self { index, version: if version == 0 { index } else { version }, missing: false }
    }
}

/// Waits until the index that `look` sees is above `min`, or for `wait`; 0 does not wait at all.
pub(crate) async fn wait_for(store: &Store, min: u64, wait: Duration, look: impl Fn(&State) -> Seen) {
    if min == 0 {
        return;
    }
    let deadline = Instant::now() + wait;
    let mut changes = store.changes();
    let mut min = min;
    let mut seen = store.read(&look);
    let mut was_missing = seen.missing;
    while seen.index <= min {
        let before = seen.version;
        loop {
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                // The time is up, or the agent is going away.
                Ok(Err(_)) | Err(_) => return,
            }
            seen = store.read(&look);
            if seen.version != before {
                break;
            }
        }
        if seen.missing && was_missing {
            min = min.max(seen.index);
        }
        was_missing = seen.missing;
    }
}

/// Adds up to a sixteenth, so that queries that began together do not end together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait + wait.mul_f64(fastrand::f64() / 16.0)
}
