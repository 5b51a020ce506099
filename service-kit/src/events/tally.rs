//! What is counted of events, and told to the meter.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use opentelemetry::{KeyValue, metrics::Meter};

use crate::timestamp::Timestamp;

/// The counts of one relay or one sink.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) delivered: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) parked: AtomicU64,
    waiting: AtomicI64,
    /// When the oldest that waits happened; 0 when none does.
    oldest: AtomicI64,
}

type Read<N> = fn(&Tally) -> N;

const COUNTERS: [(&str, &str, Read<u64>); 4] = [
    ("shop.events.delivered", "Events that were taken.", |tally| tally.delivered.load(Relaxed)),
    ("shop.events.duplicates", "Events that came again and had no effect.", |tally| {
        tally.duplicates.load(Relaxed)
    }),
    ("shop.events.failures", "Deliveries that failed.", |tally| tally.failures.load(Relaxed)),
    ("shop.events.parked", "Events that were set aside.", |tally| tally.parked.load(Relaxed)),
];

impl Tally {
    pub(super) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many wait, and since when the oldest does.
    pub(super) fn note(&self, waiting: i64, oldest: Option<i64>) {
        self.waiting.store(waiting, Relaxed);
        self.oldest.store(oldest.unwrap_or_default(), Relaxed);
    }

    /// Seconds since the oldest that waits happened.
    fn age(&self) -> f64 {
        let oldest = self.oldest.load(Relaxed);
        if oldest == 0 {
            return 0.0;
        }
        let micros = Timestamp::now().micros().saturating_sub(oldest).max(0);
        std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
    }

    /// Makes the instruments: counters of what happened, and, where `lag`, how
    /// many events wait and how old the oldest is. They read what was counted,
    /// never the database, for as long as the meter's provider lives.
    pub(super) fn tell(self: &Arc<Self>, meter: &Meter, lag: bool, service: &str, role: &'static str) {
        let target = [KeyValue::new(role, service.to_owned())];
        for (name, what, read) in COUNTERS {
            let (tally, target) = (self.clone(), target.clone());
            let instrument = meter.u64_observable_counter(name).with_unit("{event}").with_description(what);
            let _ = instrument.with_callback(move |to| to.observe(read(&tally), &target)).build();
        }
        if !lag {
            return;
        }
        let (tally, at) = (self.clone(), target.clone());
        let waiting = meter.i64_observable_gauge("shop.events.waiting").with_unit("{event}");
        let waiting = waiting.with_description("Events that wait to be delivered.");
        let _ = waiting.with_callback(move |to| to.observe(tally.waiting.load(Relaxed), &at)).build();
        let tally = self.clone();
        let age = meter.f64_observable_gauge("shop.events.oldest_age").with_unit("s");
        let age = age.with_description("How long ago the oldest event happened that waits.");
        let _ = age.with_callback(move |to| to.observe(tally.age(), &target)).build();
    }
}
