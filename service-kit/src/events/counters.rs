//! Counters of events, and their metrics.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use opentelemetry::{KeyValue, metrics::Meter};

use crate::timestamp::Timestamp;

/// The counters of one relay or one sink.
#[derive(Debug, Default)]
pub(super) struct EventCounters {
    pub(super) delivered: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) parked: AtomicU64,
    waiting: AtomicI64,
    /// The time of the oldest waiting event; 0 when none waits.
    oldest: AtomicI64,
}

type Read<N> = fn(&EventCounters) -> N;

const COUNTERS: [(&str, &str, Read<u64>); 4] = [
    ("shop.events.delivered", "Events that were delivered.", |counters| counters.delivered.load(Relaxed)),
    ("shop.events.duplicates", "Events that were delivered again, without effect.", |counters| {
        counters.duplicates.load(Relaxed)
    }),
    ("shop.events.failures", "Deliveries that failed.", |counters| counters.failures.load(Relaxed)),
    ("shop.events.parked", "Events that were parked.", |counters| counters.parked.load(Relaxed)),
];

impl EventCounters {
    pub(super) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Relaxed);
    }

    /// Sets the number of waiting events, and the time of the oldest.
    pub(super) fn set_backlog(&self, waiting: i64, oldest: Option<i64>) {
        self.waiting.store(waiting, Relaxed);
        self.oldest.store(oldest.unwrap_or_default(), Relaxed);
    }

    /// The age of the oldest waiting event in seconds.
    fn age(&self) -> f64 {
        let oldest = self.oldest.load(Relaxed);
        if oldest == 0 {
            return 0.0;
        }
        let micros = Timestamp::now().micros().saturating_sub(oldest).max(0);
        std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
    }

    /// Registers the instruments: the counters and, `with_backlog`, the gauges of
    /// waiting events and of the oldest one's age. They read these counters, never
    /// the database, for as long as the meter's provider lives.
    pub(super) fn register(
        self: &Arc<Self>,
        meter: &Meter,
        with_backlog: bool,
        service: &str,
        role: &'static str,
    ) {
        let target = [KeyValue::new(role, service.to_owned())];
        for (name, description, read) in COUNTERS {
            let (counters, target) = (self.clone(), target.clone());
            let instrument = meter.u64_observable_counter(name).with_unit("{event}");
            let instrument = instrument.with_description(description);
            let _ = instrument.with_callback(move |to| to.observe(read(&counters), &target)).build();
        }
        if !with_backlog {
            return;
        }
        let (counters, at) = (self.clone(), target.clone());
        let waiting = meter.i64_observable_gauge("shop.events.waiting").with_unit("{event}");
        let waiting = waiting.with_description("Events that wait for delivery.");
        let _ = waiting.with_callback(move |to| to.observe(counters.waiting.load(Relaxed), &at)).build();
        let counters = self.clone();
        let age = meter.f64_observable_gauge("shop.events.oldest_age").with_unit("s");
        let age = age.with_description("The age of the oldest event that waits for delivery.");
        let _ = age.with_callback(move |to| to.observe(counters.age(), &target)).build();
    }
}
