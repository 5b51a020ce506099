//! The counters of a replica's calls, above all of those past their deadline.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use registry_client::policy::timeout;
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;

/// The limit on late calls that are kept between two reports.
const MAX_LATE_CALLS: usize = 100_000;

/// The counters since the last report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Calls that started.
    pub(crate) calls: u64,
    /// For every handler that outlived its deadline: the time from the deadline
    /// until it was dropped, in milliseconds.
    pub(crate) late_ms: Vec<u64>,
    /// The longest and the shortest deadline of a call, in milliseconds.
    pub(crate) granted_ms: Option<(u64, u64)>,
    /// Handlers that still run past their deadline.
    pub(crate) running: u64,
}

/// Counts calls.
#[derive(Debug, Default)]
pub(super) struct CallLedger(Mutex<LedgerState>);

#[derive(Debug, Default)]
struct LedgerState {
    report: Report,
    /// The deadlines of the calls in flight.
    open: Vec<(u64, Instant)>,
    entries: u64,
}

impl CallLedger {
    /// Records the start of a call, and its end when the guard is dropped.
    pub(super) fn enter(&self, metadata: &MetadataMap) -> LedgerEntry<'_> {
        let granted = metadata.get("grpc-timeout").and_then(|value| timeout::parse(value.as_bytes()));
        let expiry = granted.map(|granted| Instant::now() + granted);
        let entry = self.with_state(|state| {
            state.report.calls += 1;
            state.entries += 1;
            if let Some(granted) = granted.map(millis) {
                let (most, least) = state.report.granted_ms.unwrap_or((granted, granted));
                state.report.granted_ms = Some((most.max(granted), least.min(granted)));
            }
            state.open.extend(expiry.map(|expiry| (state.entries, expiry)));
            state.entries
        });
        LedgerEntry { ledger: self, entry, expiry }
    }

    /// Takes the counters since the last report.
    pub(super) fn take(&self) -> Report {
        let now = Instant::now();
        self.with_state(|state| {
            let running = state.open.iter().filter(|(_, expiry)| *expiry < now).count();
            Report { running: running as u64, ..std::mem::take(&mut state.report) }
        })
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut LedgerState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A guard for a call in flight.
pub(super) struct LedgerEntry<'a> {
    ledger: &'a CallLedger,
    entry: u64,
    expiry: Option<Instant>,
}

impl Drop for LedgerEntry<'_> {
    fn drop(&mut self) {
        let Some(expiry) = self.expiry else { return };
        let late = Instant::now().checked_duration_since(expiry);
        self.ledger.with_state(|state| {
            state.open.retain(|(entry, _)| *entry != self.entry);
            if let Some(late) = late
                && state.report.late_ms.len() < MAX_LATE_CALLS
            {
                state.report.late_ms.push(millis(late));
            }
        });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
