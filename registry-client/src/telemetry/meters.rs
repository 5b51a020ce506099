//! The histograms of attempts and calls.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};

use crate::{code::Code, instance::ServiceName};

/// The bucket boundaries of latencies in gRFC A66, in seconds.
const LATENCY_BOUNDARIES: [f64; 41] = [
    0.0, 0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006,
    0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3,
    0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// The histograms of one channel, by gRPC's names (gRFC A66 and A96), with the
/// service as `grpc.target`. Recording does not allocate here; the meter's SDK
/// may.
#[derive(Debug)]
pub struct Meters {
    attempt_duration: Histogram<f64>,
    retries: Histogram<u64>,
    transparent_retries: Histogram<u64>,
    hedges: Histogram<u64>,
    retry_delay: Histogram<f64>,
    target: [KeyValue; 1],
    /// The attributes of an attempt, by the number of its status code.
    by_code: Vec<[KeyValue; 2]>,
}

/// The attempts of one call beyond the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryCounts {
    /// Attempts that followed a failed one which may have been processed.
    pub retries: u64,
    /// Attempts that followed one which was provably not processed.
    pub transparent: u64,
    /// Attempts sent while an earlier one was in flight.
    pub hedges: u64,
    /// The time without an attempt in flight, after the first.
    pub delay: Duration,
}

impl Meters {
    /// The histograms of the channel to `service`, made by `meter`.
    #[must_use]
    pub fn new(meter: &Meter, service: &ServiceName) -> Self {
        let target = KeyValue::new("grpc.target", service.to_string());
        let by_code =
            |code: i32| [target.clone(), KeyValue::new("grpc.status", Code::from_number(code).to_string())];
        let seconds = |name, what| {
            let histogram = meter.f64_histogram(name).with_description(what).with_unit("s");
            histogram.with_boundaries(LATENCY_BOUNDARIES.to_vec()).build()
        };
        let count = |name, unit, what, max: u8| {
            let boundaries = (1..=max).map(f64::from).collect();
            let histogram = meter.u64_histogram(name).with_description(what).with_unit(unit);
            histogram.with_boundaries(boundaries).build()
        };
        Self {
            attempt_duration: seconds(
                "grpc.client.attempt.duration",
                "Time from the sending of an attempt to its end, by its status",
            ),
            retries: count("grpc.client.call.retries", "{retry}", "Retries of a call that had any", 5),
            transparent_retries: count(
                "grpc.client.call.transparent_retries",
                "{transparent_retry}",
                "Transparent retries of a call that had any",
                10,
            ),
            hedges: count("grpc.client.call.hedges", "{hedge}", "Hedges of a call that had any", 5),
            retry_delay: seconds(
                "grpc.client.call.retry_delay",
                "Time of a call after its first attempt in which no attempt was in flight",
            ),
            by_code: (0..17).map(by_code).collect(),
            target: [target],
        }
    }

    /// Records an attempt that ended with `code`, `elapsed` after it was sent.
    pub fn attempt(&self, elapsed: Duration, code: Code) {
        if let Some(attributes) = self.by_code.get(usize::from(code.number())) {
            self.attempt_duration.record(elapsed.as_secs_f64(), attributes);
        }
    }

    /// Records the retries of a call. Zeros are not recorded (gRFC A96), so
    /// that a call without retries costs nothing.
    pub fn call(&self, retry_counts: &RetryCounts) {
        let counts = [
            (&self.retries, retry_counts.retries),
            (&self.transparent_retries, retry_counts.transparent),
            (&self.hedges, retry_counts.hedges),
        ];
        for (histogram, count) in counts {
            if count > 0 {
                histogram.record(count, &self.target);
            }
        }
        if !retry_counts.delay.is_zero() {
            self.retry_delay.record(retry_counts.delay.as_secs_f64(), &self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, Metric, MetricData},
    };

    use super::*;

    #[test]
    fn an_attempt_is_recorded_by_its_status_and_a_call_only_for_what_it_needed() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter.clone()).build())
            .build();
        let meters = Meters::new(&provider.meter("test"), &"web".parse().unwrap());
        meters.attempt(Duration::from_millis(250), Code::OK);
        meters.attempt(Duration::from_millis(500), Code::UNAVAILABLE);
        meters.call(&RetryCounts::default());
        meters.call(&RetryCounts { retries: 2, delay: Duration::from_secs(1), ..RetryCounts::default() });
        provider.force_flush().unwrap();

        let mut points = Vec::new();
        let mut add = |metric: &Metric, attributes: &mut dyn Iterator<Item = &KeyValue>, sum: f64| {
            let mut words: Vec<_> = attributes.map(|kv| format!("{}={}", kv.key, kv.value)).collect();
            words.sort();
            points.push(format!("{} [{}] {} {sum}", metric.name(), metric.unit(), words.join(" ")));
        };
        let all = exporter.get_finished_metrics().unwrap();
        for metric in all.iter().flat_map(|all| all.scope_metrics()).flat_map(|scope| scope.metrics()) {
            match metric.data() {
                AggregatedMetrics::F64(MetricData::Histogram(data)) => {
                    data.data_points().for_each(|p| add(metric, &mut p.attributes(), p.sum()));
                }
                AggregatedMetrics::U64(MetricData::Histogram(data)) => {
                    data.data_points().for_each(|p| add(metric, &mut p.attributes(), p.sum() as f64));
                }
                other => panic!("{other:?}"),
            }
        }
        points.sort();
        assert_eq!(
            points,
            [
                "grpc.client.attempt.duration [s] grpc.status=OK grpc.target=web 0.25",
                "grpc.client.attempt.duration [s] grpc.status=UNAVAILABLE grpc.target=web 0.5",
                "grpc.client.call.retries [{retry}] grpc.target=web 2",
                "grpc.client.call.retry_delay [s] grpc.target=web 1",
            ]
        );
    }
}
