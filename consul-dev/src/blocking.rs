//! Blocking queries: they wait until the state has passed an index.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::store::{AgentState, Indexed, Store};

/// The state from the view of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryView {
    /// The index of the response.
    pub(crate) index: u64,
    /// A version that changes with the watched records. A higher index is ignored until it
    /// changes.
    pub(crate) version: u64,
    /// True if there is no record: as long as that stays so, a higher index does not
    /// wake the query.
    pub(crate) is_missing: bool,
}

impl QueryView {
    /// A view that is woken by every change of its index.
    pub(crate) fn at(index: u64) -> Self {
        Self { index, version: index, is_missing: false }
    }

    /// A view of `records` under a table's index, woken only by a change of one of them; without records, by any
    /// change of the index.
    pub(crate) fn of_records<'a, T: 'a>(index: u64, records: impl Iterator<Item = &'a Indexed<T>>) -> Self {
        let mix = |version: u64, record: &Indexed<T>| {
            (version ^ record.modify).wrapping_mul(0x0100_0000_01b3).wrapping_add(record.create)
        };
        let version = records.fold(0, mix);
        Self { index, version: if version == 0 { index } else { version }, is_missing: false }
    }
}

/// Waits until the index of `query` is above `min`, or for `wait`; returns immediately if `min` is 0.
pub(crate) async fn wait_for(
    store: &Store,
    min: u64,
    wait: Duration,
    query: impl Fn(&AgentState) -> QueryView,
) {
    if min == 0 {
        return;
    }
    let deadline = Instant::now() + wait;
    let mut changes = store.changes();
    let mut passed_index = min;
    let mut view = store.read(&query);
    let mut was_missing = view.is_missing;
    while view.index <= passed_index {
        let before = view.version;
        loop {
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                // The wait time is over, or the agent stops.
                Ok(Err(_)) | Err(_) => return,
            }
            view = store.read(&query);
            if view.version != before {
                break;
            }
        }
        if view.is_missing && was_missing {
            passed_index = passed_index.max(view.index);
        }
        was_missing = view.is_missing;
    }
}

/// Adds up to a sixteenth, so that queries that started together do not end
/// together.
pub(crate) fn with_jitter(wait: Duration) -> Duration {
    wait + wait.mul_f64(fastrand::f64() / 16.0)
}
