//! What a replica counts of its calls, above all of those whose time is up.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use registry_client::policy::timeout;
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;

/// The most calls whose lateness is kept between two reports.
const MOST: usize = 100_000;

/// What a replica tells of its calls since it was last asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Calls that began.
    pub(crate) calls: u64,
    /// Of every handler that was still there when its time was up: how long
    /// after that it was dropped, in milliseconds.
    pub(crate) late_ms: Vec<u64>,
    /// The longest and the shortest time that a call came with, in
    /// milliseconds.
    pub(crate) granted_ms: Option<(u64, u64)>,
    /// Handlers that are still there although their time is up.
    pub(crate) running: u64,
}

/// Counts calls.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    report: Report,
    /// When the calls under way must end.
    open: Vec<(u64, Instant)>,
    entries: u64,
}

impl Ledger {
    /// A call begins; it ends with what is returned.
    pub(super) fn enter(&self, metadata: &MetadataMap) -> Entry<'_> {
        let granted = metadata.get("grpc-timeout").and_then(|value| timeout::parse(value.as_bytes()));
        let expiry = granted.map(|granted| Instant::now() + granted);
        let entry = self.with(|state| {
            state.report.calls += 1;
            state.entries += 1;
            if let Some(granted) = granted.map(millis) {
                let (most, least) = state.report.granted_ms.unwrap_or((granted, granted));
                state.report.granted_ms = Some((most.max(granted), least.min(granted)));
            }
            state.open.extend(expiry.map(|expiry| (state.entries, expiry)));
            state.entries
        });
        Entry { ledger: self, entry, expiry }
    }

    /// What was counted since the last time.
    pub(super) fn take(&self) -> Report {
        let now = Instant::now();
        self.with(|state| {
            let running = state.open.iter().filter(|(_, expiry)| *expiry < now).count();
            Report { running: running as u64, ..std::mem::take(&mut state.report) }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A call under way.
pub(super) struct Entry<'a> {
    ledger: &'a Ledger,
    entry: u64,
    expiry: Option<Instant>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let Some(expiry) = self.expiry else { return };
        let late = Instant::now().checked_duration_since(expiry);
        self.ledger.with(|state| {
            state.open.retain(|(entry, _)| *entry != self.entry);
            if let Some(late) = late
                && state.report.late_ms.len() < MOST
            {
                state.report.late_ms.push(millis(late));
            }
        });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
