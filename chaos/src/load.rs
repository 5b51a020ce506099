//! Calls at a fixed rate, whatever their outcome, each timed from when it was
//! due.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use registry_client::{Channel, telemetry::Explain};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tonic::{Code, Request};

use crate::proto::{ReadRequest, WriteRequest, target_service_client::TargetServiceClient};

mod call_log;
mod flood;

pub(crate) use call_log::{Attempt, CallLog, CallRecord, ratio};
pub(crate) use flood::Flood;

/// Calls per second.
pub(crate) const RATE: u32 = 200;
/// The deadline of every call.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);
/// The limit on a load's length, which bounds the number of records.
const MAX_RUN_TIME: Duration = Duration::from_secs(3600);
/// The limit on calls in flight; a call that is due above it fails unsent.
const MAX_IN_FLIGHT: u32 = 10_000;

/// The kinds of calls that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Only idempotent calls.
    Reads,
    /// Idempotent and other calls in turn.
    Both,
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Load {
    state: Arc<LoadState>,
    pacer: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct LoadState {
    start: Instant,
    client: TargetServiceClient<Channel>,
    mix: Mix,
    stopped: AtomicBool,
    in_flight: AtomicU32,
    records: Mutex<Vec<CallRecord>>,
    /// The number of records.
    recorded: watch::Sender<usize>,
}

impl Load {
    /// Starts at [`RATE`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(channel: Channel, mix: Mix) -> Result<Self> {
        Self::at_rate(channel, mix, RATE)
    }

    /// Starts at `rate` calls a second.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn at_rate(channel: Channel, mix: Mix, rate: u32) -> Result<Self> {
        let state = Arc::new(LoadState {
            start: Instant::now(),
            client: TargetServiceClient::new(channel),
            mix,
            stopped: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            records: Mutex::default(),
            recorded: watch::Sender::new(0),
        });
        let (load_state, handle) = (state.clone(), Handle::current());
        let pacer = thread::Builder::new()
            .name("pacer".into())
            .spawn(move || send_all(&load_state, rate, &handle))
            .context("could not start a thread")?;
        Ok(Self { state, pacer: Some(pacer) })
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.state.start.elapsed()
    }

    /// Waits while the load runs for `time`.
    pub(crate) async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits for the end of a call that was due after `from` and matches.
    ///
    /// # Errors
    /// When no such call ends within `limit`.
    pub(crate) async fn wait_for_call(
        &self,
        from: Duration,
        limit: Duration,
        mut is_match: impl FnMut(&CallRecord) -> bool,
    ) -> Result<CallRecord> {
        let mut recorded = self.state.recorded.subscribe();
        let mut read_count = 0;
        let found = timeout(limit, async {
            loop {
                recorded.borrow_and_update();
                let found = self.state.records(|records| {
                    let new = &records[read_count..];
                    read_count = records.len();
                    new.iter().find(|r| r.due >= from && is_match(r)).cloned()
                });
                if let Some(found) = found {
                    return found;
                }
                if recorded.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        found.await.with_context(|| format!("no matching call ended within {limit:?}"))
    }

    /// The calls so far.
    pub(crate) fn call_log(&self) -> CallLog {
        CallLog::new(self.state.records(|records| records.clone()))
    }

    /// Stops, waits for the calls in flight, and returns all calls.
    ///
    /// # Errors
    /// When a call outlives every deadline.
    pub(crate) async fn finish(mut self) -> Result<CallLog> {
        self.state.stopped.store(true, Relaxed);
        if let Some(pacer) = self.pacer.take() {
            tokio::task::spawn_blocking(move || pacer.join()).await?.ok().context("the pacer failed")?;
        }
        let mut recorded = self.state.recorded.subscribe();
        let idle = async {
            while self.state.in_flight.load(Relaxed) > 0 {
                recorded.changed().await?;
            }
            anyhow::Ok(())
        };
        timeout(DEADLINE * 10, idle).await.context("a call does not end")??;
        Ok(self.call_log())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.state.stopped.store(true, Relaxed);
    }
}

impl LoadState {
    fn records<T>(&self, act: impl FnOnce(&mut Vec<CallRecord>) -> T) -> T {
        act(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, record: CallRecord) {
        let count = self.records(|records| {
            records.push(record);
            records.len()
        });
        self.recorded.send_replace(count);
    }

    /// Makes call `n`, which was due `due` after the start. Its deadline also
    /// counts from then.
    async fn call(&self, n: u64, due: Duration) -> CallRecord {
        let explain = Explain::default();
        let idempotent = self.mix == Mix::Reads || n.is_multiple_of(2);
        let late = self.start.elapsed().saturating_sub(due);
        let remaining = DEADLINE.saturating_sub(late).max(Duration::from_millis(1));
        let mut client = self.client.clone();
        let result = if idempotent {
            client.read(request(ReadRequest::default(), remaining, &explain)).await.map(drop)
        } else {
            client.write(request(WriteRequest {}, remaining, &explain)).await.map(drop)
        };
        let attempts = explain.attempts().into_iter();
        CallRecord {
            due,
            took: self.start.elapsed().saturating_sub(due),
            idempotent,
            failure: result.err().map(|status| (status.code(), status.message().into())),
            attempts: attempts.map(|a| Attempt { instance: a.instance, answered: a.answered }).collect(),
        }
    }
}

fn request<T>(message: T, remaining: Duration, explain: &Explain) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(remaining);
    request.extensions_mut().insert(explain.clone());
    request
}

/// Starts each call when it is due. Runs on a thread: a thread's sleep is off
/// by some 60 µs, a runtime's timer by a millisecond, which would count as
/// latency.
fn send_all(state: &Arc<LoadState>, rate: u32, handle: &Handle) {
    for n in 0.. {
        let due = Duration::from_secs(1) * n / rate;
        if due > MAX_RUN_TIME {
            return;
        }
        thread::sleep(due.saturating_sub(state.start.elapsed()));
        if state.stopped.load(Relaxed) {
            return;
        }
        let state = state.clone();
        if state.in_flight.fetch_add(1, Relaxed) >= MAX_IN_FLIGHT {
            state.in_flight.fetch_sub(1, Relaxed);
            state.record(CallRecord::unsent(due));
            continue;
        }
        handle.spawn(async move {
            let record = state.call(n.into(), due).await;
            state.in_flight.fetch_sub(1, Relaxed);
            state.record(record);
        });
    }
}

impl CallRecord {
    /// The record of a call that was due while too many others were in flight.
    fn unsent(due: Duration) -> Self {
        let failure = Some((Code::Aborted, "too many calls are in flight".into()));
        Self { due, took: Duration::ZERO, idempotent: true, failure, attempts: Vec::new() }
    }
}
