//! The observable instruments of channels, which read counters and state when
//! metrics are collected: a call pays only for its atomic additions.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{ChannelState, Counters};
use crate::resolve::{RegistryCounters, Resolution};

/// One channel at the moment of a collection.
pub(crate) struct ChannelSnapshot {
    pub(crate) service: String,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: ChannelState,
    pub(crate) resolution: Resolution,
    /// The counters of look-ups, where the resolver has them.
    pub(crate) registry: Option<Arc<RegistryCounters>>,
}

/// The source of channels, which is called at each collection.
pub(crate) type ChannelSource = Arc<dyn Fn() -> Vec<ChannelSnapshot> + Send + Sync>;

/// An instrument: name, unit, description and series.
struct Instrument<T: 'static> {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    series: &'static [Series<T>],
}

/// The attribute that distinguishes a series of an instrument, and the function
/// that reads its value; without a value there is no data point.
type Series<T> = (Option<(&'static str, &'static str)>, fn(&ChannelSnapshot) -> Option<T>);

/// A series of a counter.
macro_rules! counted {
    ($counter:ident) => {
        (None, |channel: &ChannelSnapshot| Some(channel.counters.$counter.get()))
    };
    ($counter:ident, $key:literal = $value:literal) => {
        (Some(($key, $value)), |channel: &ChannelSnapshot| Some(channel.counters.$counter.get()))
    };
}

/// A series of a counter of look-ups.
macro_rules! registry {
    ($counter:ident) => {
        (None, |channel: &ChannelSnapshot| Some(channel.registry.as_ref()?.$counter.get()))
    };
}

/// Names, units and meaning: gRFC A66 (attempts), A91 (outlier detection), A94
/// (subchannels); `consort.*` are ours.
const COUNTERS: &[Instrument<u64>] = &[
    Instrument {
        name: "grpc.client.attempt.started",
        unit: "{attempt}",
        description: "Attempts sent, unfinished ones included",
        series: &[counted!(attempts)],
    },
    Instrument {
        name: "grpc.lb.outlier_detection.ejections_enforced",
        unit: "{ejection}",
        description: "Instances ejected by outlier detection",
        series: &[counted!(ejections)],
    },
    Instrument {
        name: "grpc.lb.outlier_detection.ejections_unenforced",
        unit: "{ejection}",
        description: "Ejections that were not enforced because too many instances were ejected",
        series: &[counted!(ejections_unenforced)],
    },
    Instrument {
        name: "grpc.subchannel.disconnections",
        unit: "{disconnection}",
        description: "Connections that ended",
        series: &[counted!(connections_closed)],
    },
    Instrument {
        name: "grpc.subchannel.connection_attempts_succeeded",
        unit: "{attempt}",
        description: "Connections established",
        series: &[counted!(connections_opened)],
    },
    Instrument {
        name: "grpc.subchannel.connection_attempts_failed",
        unit: "{attempt}",
        description: "Attempts to connect that failed",
        series: &[counted!(connections_failed)],
    },
    Instrument {
        name: "consort.client.calls",
        unit: "{call}",
        description: "Calls begun",
        series: &[counted!(calls)],
    },
    Instrument {
        name: "consort.client.calls_expired",
        unit: "{call}",
        description: "Calls whose deadline passed",
        series: &[counted!(expired)],
    },
    Instrument {
        name: "consort.client.calls_refused",
        unit: "{call}",
        description: "Calls that were not sent: throttled, or above a concurrency limit",
        series: &[
            counted!(throttled, "consort.reason" = "throttle"),
            counted!(limited, "consort.reason" = "limit"),
        ],
    },
    Instrument {
        name: "consort.client.retries",
        unit: "{attempt}",
        description: "Attempts beyond a call's first",
        series: &[
            counted!(retries, "consort.retry.kind" = "retry"),
            counted!(transparent_retries, "consort.retry.kind" = "transparent"),
            counted!(hedges, "consort.retry.kind" = "hedge"),
        ],
    },
    Instrument {
        name: "consort.client.retries_refused",
        unit: "{attempt}",
        description: "Retries and hedges that the budget did not allow",
        series: &[counted!(budget_refused)],
    },
    Instrument {
        name: "consort.registry.queries",
        unit: "{query}",
        description: "Queries for the instances sent to the registry, failed ones included",
        series: &[registry!(queries)],
    },
    Instrument {
        name: "consort.registry.errors",
        unit: "{error}",
        description: "Queries for the instances without a usable response",
        series: &[registry!(errors)],
    },
    Instrument {
        name: "consort.registry.unchanged_wakes",
        unit: "{wake}",
        description: "Blocking queries that returned with a newer index and unchanged instances",
        series: &[registry!(unchanged_wakes)],
    },
];

const STATE: &str = "consort.instance.state";

/// Instruments that go up and down.
const GAUGES: &[Instrument<i64>] = &[
    Instrument {
        name: "grpc.subchannel.open_connections",
        unit: "{connection}",
        description: "Open connections",
        series: &[(None, |channel| Some(open_connections(&channel.counters)))],
    },
    Instrument {
        name: "consort.client.instances",
        unit: "{instance}",
        description: "Known instances: ready, or out for this reason",
        series: &[
            (Some((STATE, "ready")), |channel| Some(count_by_reason(channel, None))),
            (Some((STATE, "registry")), |channel| Some(count_by_reason(channel, Some("registry")))),
            (Some((STATE, "watch")), |channel| Some(count_by_reason(channel, Some("watch")))),
            (Some((STATE, "connection")), |channel| Some(count_by_reason(channel, Some("connection")))),
            (Some((STATE, "outlier")), |channel| Some(count_by_reason(channel, Some("outlier")))),
            (Some((STATE, "damping")), |channel| Some(count_by_reason(channel, Some("damping")))),
        ],
    },
    Instrument {
        name: "consort.client.instances_unlisted",
        unit: "{instance}",
        description: "Instances that the registry no longer lists and that are kept because they are connected",
        series: &[(None, |channel| Some(count_instances(channel, |i| i.registry == "unlisted")))],
    },
    Instrument {
        name: "consort.client.instances_not_serving",
        unit: "{instance}",
        description: "Instances whose health service reports that they do not serve",
        series: &[(None, |channel| Some(count_instances(channel, |i| i.watch == "not_serving")))],
    },
    Instrument {
        name: "consort.client.requests_in_flight",
        unit: "{request}",
        description: "Requests in flight",
        series: &[(None, |channel| {
            Some(channel.state.instances.iter().map(|i| i64::from(i.in_flight)).sum())
        })],
    },
];

/// Ages, in seconds.
const AGES: &[Instrument<f64>] = &[
    Instrument {
        name: "consort.resolver.staleness",
        unit: "s",
        description: "Time since look-ups in the registry began to fail; 0 while they succeed",
        series: &[(None, |channel| Some(channel.resolution.stale_since.map_or(0.0, age)))],
    },
    Instrument {
        name: "consort.resolver.snapshot_age",
        unit: "s",
        description: "Age of the snapshot in use; none while the registry's own set is",
        series: &[(None, |channel| channel.resolution.snapshot_saved_at.map(age))],
    },
    Instrument {
        name: "consort.registry.answer_age",
        unit: "s",
        description: "Age of the registry's last good response, up to the wait of a blocking query while nothing changes; none before the first",
        series: &[(None, |channel| Some(channel.registry.as_ref()?.response_age()?.as_secs_f64()))],
    },
];

fn open_connections(counters: &Counters) -> i64 {
    // Read in this order, so that a connection that opens and closes between
    // the two reads does not give a negative number.
    let closed = counters.connections_closed.get();
    i64::try_from(counters.connections_opened.get().saturating_sub(closed)).unwrap_or(i64::MAX)
}

/// The instances that are ready, or out for this reason.
fn count_by_reason(channel: &ChannelSnapshot, decided_by: Option<&str>) -> i64 {
    count_instances(channel, |instance| match decided_by {
        None => instance.ready,
        reason => !instance.ready && instance.decided_by == reason,
    })
}

fn count_instances(channel: &ChannelSnapshot, which: impl Fn(&super::InstanceState) -> bool) -> i64 {
    let count_instances = channel.state.instances.iter().filter(|instance| which(instance)).count();
    i64::try_from(count_instances).unwrap_or(i64::MAX)
}

fn age(since: SystemTime) -> f64 {
    since.elapsed().unwrap_or(Duration::ZERO).as_secs_f64()
}

impl<T> Instrument<T> {
    /// Reports the current data points.
    fn points(&self, channels: &ChannelSource, mut report: impl FnMut(T, &[KeyValue])) {
        for channel in channels() {
            let target = KeyValue::new("grpc.target", channel.service.clone());
            for (attribute, read) in self.series {
                let Some(value) = read(&channel) else { continue };
                match attribute {
                    None => report(value, std::slice::from_ref(&target)),
                    Some((key, name)) => report(value, &[target.clone(), KeyValue::new(*key, *name)]),
                }
            }
        }
    }
}

/// Creates the instruments, which read `channels` for the lifetime of `meter`'s
/// provider.
pub(crate) fn observe(meter: &Meter, channels: &ChannelSource) {
    for spec in COUNTERS {
        let channels = channels.clone();
        let instrument = meter.u64_observable_counter(spec.name).with_unit(spec.unit);
        let read = move |to: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            spec.points(&channels, |value, attributes| to.observe(value, attributes));
        };
        let _ = instrument.with_description(spec.description).with_callback(read).build();
    }
    for spec in GAUGES {
        let channels = channels.clone();
        let instrument = meter.i64_observable_up_down_counter(spec.name).with_unit(spec.unit);
        let read = move |to: &dyn opentelemetry::metrics::AsyncInstrument<i64>| {
            spec.points(&channels, |value, attributes| to.observe(value, attributes));
        };
        let _ = instrument.with_description(spec.description).with_callback(read).build();
    }
    for spec in AGES {
        let channels = channels.clone();
        let instrument = meter.f64_observable_gauge(spec.name).with_unit(spec.unit);
        let read = move |to: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            spec.points(&channels, |value, attributes| to.observe(value, attributes));
        };
        let _ = instrument.with_description(spec.description).with_callback(read).build();
    }
}
