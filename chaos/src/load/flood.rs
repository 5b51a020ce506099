//! A load with more calls than can be recorded: they are only counted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tonic::{Code, Status};

use super::DEADLINE;

/// The interval at which due calls are started.
const TICK_INTERVAL: Duration = Duration::from_millis(1);
/// The limit on calls in flight; those that are due above it are not sent.
const MAX_IN_FLIGHT: u64 = 50_000;

/// The outcomes of the calls that ended in one second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SecondStats {
    pub(crate) served: u64,
    /// Rejected by the server.
    pub(crate) refused: u64,
    /// Rejected by the client's throttle, never sent.
    pub(crate) throttled: u64,
    pub(crate) expired: u64,
    pub(crate) failed: u64,
}

/// The outcomes of a flood.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    /// One entry for each whole second.
    pub(crate) seconds: Vec<SecondStats>,
    /// The latency of each rejected call in microseconds.
    refused_after: Vec<u32>,
    /// Calls that were due and not sent, because too many were in flight.
    pub(crate) unsent: u64,
    /// The first status of those that count as failed.
    pub(crate) failure: Option<Status>,
}

impl Flood {
    /// Makes `rate` calls a second for `time`, whatever their outcome.
    pub(crate) async fn of<C, F>(call: C, rate: f64, time: Duration) -> Self
    where
        C: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (call_log, in_flight) = (Arc::new(Mutex::new(Self::lasting(time))), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut started = 0;
        while began.elapsed() < time {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * rate) as u64;
            for _ in started..due {
                if in_flight.fetch_add(1, Relaxed) >= MAX_IN_FLIGHT {
                    in_flight.fetch_sub(1, Relaxed);
                    lock(&call_log).unsent += 1;
                    continue;
                }
                let (call, call_log, in_flight) = (call.clone(), call_log.clone(), in_flight.clone());
                tokio::spawn(async move {
                    let sent = Instant::now();
                    let ended = call().await;
                    lock(&call_log).count(ended.err(), sent.elapsed(), began.elapsed());
                    in_flight.fetch_sub(1, Relaxed);
                });
            }
            started = due;
        }
        while in_flight.load(Relaxed) > 0 && began.elapsed() < time + DEADLINE * 10 {
            sleep(TICK_INTERVAL).await;
        }
        std::mem::take(&mut *lock(&call_log))
    }

    /// The number of calls a second that `callers` sequential callers complete.
    pub(crate) async fn capacity<C, F>(call: C, callers: usize, time: Duration) -> f64
    where
        C: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let began = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..callers {
            let call = call.clone();
            all.spawn(async move {
                let mut done = 0;
                while began.elapsed() < time {
                    done += u32::from(call().await.is_ok());
                }
                f64::from(done)
            });
        }
        all.join_all().await.iter().sum::<f64>() / began.elapsed().as_secs_f64()
    }

    fn lasting(time: Duration) -> Self {
        let seconds = usize::try_from(time.as_secs()).unwrap_or_default();
        Self { seconds: vec![SecondStats::default(); seconds], ..Self::default() }
    }

    fn count(&mut self, ended: Option<Status>, took: Duration, at: Duration) {
        let Some(second) = usize::try_from(at.as_secs()).ok().and_then(|n| self.seconds.get_mut(n)) else {
            return;
        };
        let counted = match ended.as_ref().map(|status| (status.code(), status.message())) {
            None => &mut second.served,
            Some((Code::ResourceExhausted, why)) if why.contains("client-side throttling") => {
                &mut second.throttled
            }
            Some((Code::ResourceExhausted, _)) => {
                self.refused_after.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                &mut second.refused
            }
            Some((Code::DeadlineExceeded, _)) => &mut second.expired,
            Some(_) => {
                self.failure = self.failure.take().or(ended);
                &mut second.failed
            }
        };
        *counted += 1;
    }

    /// The sum of all seconds.
    pub(crate) fn all(&self) -> SecondStats {
        let add = |a: SecondStats, b: &SecondStats| SecondStats {
            served: a.served + b.served,
            refused: a.refused + b.refused,
            throttled: a.throttled + b.throttled,
            expired: a.expired + b.expired,
            failed: a.failed + b.failed,
        };
        self.seconds.iter().fold(SecondStats::default(), add)
    }

    /// The latency quantile of the rejected calls.
    pub(crate) fn refused_within(&self, part: f64) -> Duration {
        let mut times = self.refused_after.clone();
        times.sort_unstable();
        let rank = (times.len() as f64 * part).ceil() as usize;
        Duration::from_micros(times.get(rank.saturating_sub(1)).copied().unwrap_or_default().into())
    }
}

fn lock(call_log: &Mutex<Flood>) -> std::sync::MutexGuard<'_, Flood> {
    call_log.lock().unwrap_or_else(PoisonError::into_inner)
}
