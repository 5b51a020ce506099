//! Calls at a fixed rate, whatever becomes of them, each timed from when it
//! was due.

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

mod flood;
mod seen;

pub(crate) use flood::Flood;
pub(crate) use seen::{Attempt, Record, Seen, ratio};

/// Calls per second.
pub(crate) const RATE: u32 = 200;
/// What every call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);
/// The longest a load goes on if nobody ends it: bounds what is recorded.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most calls under way at once; one that is due above it fails unsent.
const IN_FLIGHT: u32 = 10_000;

/// Which calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Only such as may be sent again.
    Reads,
    /// As many that may not, in turn.
    Both,
}

/// A load under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    pacer: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    client: TargetServiceClient<Channel>,
    mix: Mix,
    stopped: AtomicBool,
    in_flight: AtomicU32,
    records: Mutex<Vec<Record>>,
    /// How many there are.
    recorded: watch::Sender<usize>,
}

impl Load {
    /// Begins at [`RATE`].
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(channel: Channel, mix: Mix) -> Result<Self> {
        Self::at_rate(channel, mix, RATE)
    }

    /// Begins at `rate` calls a second.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn at_rate(channel: Channel, mix: Mix, rate: u32) -> Result<Self> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            client: TargetServiceClient::new(channel),
            mix,
            stopped: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            records: Mutex::default(),
            recorded: watch::Sender::new(0),
        });
        let (pacing, handle) = (shared.clone(), Handle::current());
        let pacer = thread::Builder::new()
            .name("pacer".into())
            .spawn(move || pace(&pacing, rate, &handle))
            .context("could not start a thread")?;
        Ok(Self { shared, pacer: Some(pacer) })
    }

    /// The time since it began: what marks on its time line are made of.
    pub(crate) fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Lets it go on for so long.
    pub(crate) async fn go_on(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits for the end of a call that was due after `from` and is as `wanted`
    /// says.
    ///
    /// # Errors
    /// When there is none within `limit` of now.
    pub(crate) async fn until(
        &self,
        from: Duration,
        limit: Duration,
        mut wanted: impl FnMut(&Record) -> bool,
    ) -> Result<Record> {
        let mut recorded = self.shared.recorded.subscribe();
        let mut looked_at = 0;
        let found = timeout(limit, async {
            loop {
                recorded.borrow_and_update();
                let found = self.shared.records(|records| {
                    let new = &records[looked_at..];
                    looked_at = records.len();
                    new.iter().find(|r| r.due >= from && wanted(r)).cloned()
                });
                if let Some(found) = found {
                    return found;
                }
                if recorded.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        found.await.with_context(|| format!("no call ended as it was waited for within {limit:?}"))
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        Seen::new(self.shared.records(|records| records.clone()))
    }

    /// Sends no more calls, waits for those under way, and gives all that was
    /// seen.
    ///
    /// # Errors
    /// When a call outlives every deadline.
    pub(crate) async fn finish(mut self) -> Result<Seen> {
        self.shared.stopped.store(true, Relaxed);
        if let Some(pacer) = self.pacer.take() {
            tokio::task::spawn_blocking(move || pacer.join()).await?.ok().context("the pacer failed")?;
        }
        let mut recorded = self.shared.recorded.subscribe();
        let idle = async {
            while self.shared.in_flight.load(Relaxed) > 0 {
                recorded.changed().await?;
            }
            anyhow::Ok(())
        };
        timeout(DEADLINE * 10, idle).await.context("a call does not end at all")??;
        Ok(self.seen())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
    }
}

impl Shared {
    fn records<T>(&self, act: impl FnOnce(&mut Vec<Record>) -> T) -> T {
        act(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, record: Record) {
        let count = self.records(|records| {
            records.push(record);
            records.len()
        });
        self.recorded.send_replace(count);
    }

    /// Makes call `n`, which was due `due` after the start. What is left of
    /// its deadline also counts from then.
    async fn call(&self, n: u64, due: Duration) -> Record {
        let explain = Explain::default();
        let idempotent = self.mix == Mix::Reads || n.is_multiple_of(2);
        let late = self.start.elapsed().saturating_sub(due);
        let left = DEADLINE.saturating_sub(late).max(Duration::from_millis(1));
        let mut client = self.client.clone();
        let answer = if idempotent {
            client.read(request(ReadRequest::default(), left, &explain)).await.map(drop)
        } else {
            client.write(request(WriteRequest {}, left, &explain)).await.map(drop)
        };
        let attempts = explain.attempts().into_iter();
        Record {
            due,
            took: self.start.elapsed().saturating_sub(due),
            idempotent,
            failure: answer.err().map(|status| (status.code(), status.message().into())),
            attempts: attempts.map(|a| Attempt { instance: a.instance, answered: a.answered }).collect(),
        }
    }
}

fn request<T>(message: T, left: Duration, explain: &Explain) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(left);
    request.extensions_mut().insert(explain.clone());
    request
}

/// Starts each call when it is due. On a thread: its sleep is off by some
/// 60 µs, a runtime's timer by a millisecond, which would count as latency.
fn pace(shared: &Arc<Shared>, rate: u32, handle: &Handle) {
    for n in 0.. {
        let due = Duration::from_secs(1) * n / rate;
        if due > LONGEST {
            return;
        }
        thread::sleep(due.saturating_sub(shared.start.elapsed()));
        if shared.stopped.load(Relaxed) {
            return;
        }
        let shared = shared.clone();
        if shared.in_flight.fetch_add(1, Relaxed) >= IN_FLIGHT {
            shared.in_flight.fetch_sub(1, Relaxed);
            shared.record(Record::unsent(due));
            continue;
        }
        handle.spawn(async move {
            let record = shared.call(n.into(), due).await;
            shared.in_flight.fetch_sub(1, Relaxed);
            shared.record(record);
        });
    }
}

impl Record {
    /// A call that was due while too many others were under way.
    fn unsent(due: Duration) -> Self {
        let failure = Some((Code::Aborted, "too many calls are under way".into()));
        Self { due, took: Duration::ZERO, idempotent: true, failure, attempts: Vec::new() }
    }
}
