//! More calls than a recorded load could keep up with: counted, not kept.

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

/// How often due calls are begun.
const TICK: Duration = Duration::from_millis(1);
/// The most calls under way; those that are due above it are not begun.
const IN_FLIGHT: u64 = 50_000;

/// What became of the calls that ended in one second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    pub(crate) served: u64,
    /// By the server.
    pub(crate) refused: u64,
    /// Never sent.
    pub(crate) throttled: u64,
    pub(crate) expired: u64,
    pub(crate) failed: u64,
}

/// What a flood saw.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    /// Each whole second of it.
    pub(crate) seconds: Vec<Second>,
    /// How long each call took that the server refused, in microseconds.
    refused_after: Vec<u32>,
    /// Calls that were due and not begun, because too many were under way.
    pub(crate) unsent: u64,
    /// The first status of those that count as failed.
    pub(crate) failure: Option<Status>,
}

impl Flood {
    /// Makes `rate` calls a second for so long, whatever becomes of them.
    pub(crate) async fn of<C, F>(call: C, rate: f64, time: Duration) -> Self
    where
        C: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (seen, in_flight) = (Arc::new(Mutex::new(Self::lasting(time))), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut begun = 0;
        while began.elapsed() < time {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * rate) as u64;
            for _ in begun..due {
                if in_flight.fetch_add(1, Relaxed) >= IN_FLIGHT {
                    in_flight.fetch_sub(1, Relaxed);
                    lock(&seen).unsent += 1;
                    continue;
                }
                let (call, seen, in_flight) = (call.clone(), seen.clone(), in_flight.clone());
                tokio::spawn(async move {
                    let sent = Instant::now();
                    let ended = call().await;
                    lock(&seen).count(ended.err(), sent.elapsed(), began.elapsed());
                    in_flight.fetch_sub(1, Relaxed);
                });
            }
            begun = due;
        }
        while in_flight.load(Relaxed) > 0 && began.elapsed() < time + DEADLINE * 10 {
            sleep(TICK).await;
        }
        std::mem::take(&mut *lock(&seen))
    }

    /// How many calls a second so many callers get done, each one after the
    /// other.
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
        Self { seconds: vec![Second::default(); seconds], ..Self::default() }
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
    pub(crate) fn all(&self) -> Second {
        let add = |a: Second, b: &Second| Second {
            served: a.served + b.served,
            refused: a.refused + b.refused,
            throttled: a.throttled + b.throttled,
            expired: a.expired + b.expired,
            failed: a.failed + b.failed,
        };
        self.seconds.iter().fold(Second::default(), add)
    }

    /// The time within which that part of the refused calls was refused.
    pub(crate) fn refused_within(&self, part: f64) -> Duration {
        let mut times = self.refused_after.clone();
        times.sort_unstable();
        let rank = (times.len() as f64 * part).ceil() as usize;
        Duration::from_micros(times.get(rank.saturating_sub(1)).copied().unwrap_or_default().into())
    }
}

fn lock(seen: &Mutex<Flood>) -> std::sync::MutexGuard<'_, Flood> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
