//! What channels have counted and know, as instruments that read it when a
//! reader collects: a call pays for no more than its atomic additions.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{ChannelState, Counters};
use crate::resolve::{RegistryCounters, Resolution};

/// One channel at the moment of a collection.
pub(crate) struct Observed {
    pub(crate) service: String,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: ChannelState,
    pub(crate) resolution: Resolution,
    /// Of its look-ups, where the resolver counts them.
    pub(crate) registry: Option<Arc<RegistryCounters>>,
}

/// Tells the channels that there are; called at each collection.
pub(crate) type Channels = Arc<dyn Fn() -> Vec<Observed> + Send + Sync>;

/// An instrument: its name, its unit, what it is in words, and its series.
struct Told<T: 'static> {
    name: &'static str,
    unit: &'static str,
    what: &'static str,
    series: &'static [Series<T>],
}

/// What tells a series from the others of its instrument, as a key and a
/// value, and where its value is; no value, no point.
type Series<T> = (Option<(&'static str, &'static str)>, fn(&Observed) -> Option<T>);

/// One series, of a counter.
macro_rules! counted {
    ($counter:ident) => {
        (None, |seen: &Observed| Some(seen.counters.$counter.get()))
    };
    ($counter:ident, $key:literal = $value:literal) => {
        (Some(($key, $value)), |seen: &Observed| Some(seen.counters.$counter.get()))
    };
}

/// One series, of a counter of the look-ups.
macro_rules! registry {
    ($counter:ident) => {
        (None, |seen: &Observed| Some(seen.registry.as_ref()?.$counter.get()))
    };
}

/// Names, units and meaning: gRFC A66 (attempts), A91 (outlier detection), A94
/// (subchannels); `consort.*` are ours.
const COUNTERS: &[Told<u64>] = &[
    Told {
        name: "grpc.client.attempt.started",
        unit: "{attempt}",
        what: "Attempts sent, unfinished ones included",
        series: &[counted!(attempts)],
    },
    Told {
        name: "grpc.lb.outlier_detection.ejections_enforced",
        unit: "{ejection}",
        what: "Instances taken out because their attempts failed",
        series: &[counted!(ejections)],
    },
    Told {
        name: "grpc.lb.outlier_detection.ejections_unenforced",
        unit: "{ejection}",
        what: "Instances that stayed in because too many were out already",
        series: &[counted!(ejections_unenforced)],
    },
    Told {
        name: "grpc.subchannel.disconnections",
        unit: "{disconnection}",
        what: "Connections that ended",
        series: &[counted!(connections_closed)],
    },
    Told {
        name: "grpc.subchannel.connection_attempts_succeeded",
        unit: "{attempt}",
        what: "Connections established",
        series: &[counted!(connections_opened)],
    },
    Told {
        name: "grpc.subchannel.connection_attempts_failed",
        unit: "{attempt}",
        what: "Tries to connect that failed",
        series: &[counted!(connections_failed)],
    },
    Told { name: "consort.client.calls", unit: "{call}", what: "Calls begun", series: &[counted!(calls)] },
    Told {
        name: "consort.client.calls_expired",
        unit: "{call}",
        what: "Calls whose deadline passed",
        series: &[counted!(expired)],
    },
    Told {
        name: "consort.client.calls_refused",
        unit: "{call}",
        what: "Calls that were not sent: the service refuses too many, or too many were under way",
        series: &[
            counted!(throttled, "consort.reason" = "throttle"),
            counted!(limited, "consort.reason" = "limit"),
        ],
    },
    Told {
        name: "consort.client.retries",
        unit: "{attempt}",
        what: "Attempts beyond a call's first",
        series: &[
            counted!(retries, "consort.retry.kind" = "retry"),
            counted!(transparent_retries, "consort.retry.kind" = "transparent"),
            counted!(hedges, "consort.retry.kind" = "hedge"),
        ],
    },
    Told {
        name: "consort.client.retries_refused",
        unit: "{attempt}",
        what: "Retries and hedges that the budget did not allow",
        series: &[counted!(budget_refused)],
    },
    Told {
        name: "consort.registry.queries",
        unit: "{query}",
        what: "Queries for the instances sent to the registry, failed ones included",
        series: &[registry!(queries)],
    },
    Told {
        name: "consort.registry.errors",
        unit: "{error}",
        what: "Queries for the instances that brought no usable answer",
        series: &[registry!(errors)],
    },
    Told {
        name: "consort.registry.unchanged_wakes",
        unit: "{wake}",
        what: "Blocking queries that returned with a newer index and instances that were known already",
        series: &[registry!(unchanged_wakes)],
    },
];

const STATE: &str = "consort.instance.state";

/// What goes up and down.
const GAUGES: &[Told<i64>] = &[
    Told {
        name: "grpc.subchannel.open_connections",
        unit: "{connection}",
        what: "Open connections",
        series: &[(None, |seen| Some(open(&seen.counters)))],
    },
    Told {
        name: "consort.client.instances",
        unit: "{instance}",
        what: "Known instances: ready for calls, or out by what decided so",
        series: &[
            (Some((STATE, "ready")), |seen| Some(count(seen, None))),
            (Some((STATE, "registry")), |seen| Some(count(seen, Some("registry")))),
            (Some((STATE, "watch")), |seen| Some(count(seen, Some("watch")))),
            (Some((STATE, "connection")), |seen| Some(count(seen, Some("connection")))),
            (Some((STATE, "outlier")), |seen| Some(count(seen, Some("outlier")))),
            (Some((STATE, "damping")), |seen| Some(count(seen, Some("damping")))),
        ],
    },
    Told {
        name: "consort.client.instances_unlisted",
        unit: "{instance}",
        what: "Instances that the registry lists no more and that are kept because they answer",
        series: &[(None, |seen| Some(number(seen, |i| i.registry == "unlisted")))],
    },
    Told {
        name: "consort.client.instances_not_serving",
        unit: "{instance}",
        what: "Instances whose health service says that they do not serve",
        series: &[(None, |seen| Some(number(seen, |i| i.watch == "not_serving")))],
    },
    Told {
        name: "consort.client.requests_in_flight",
        unit: "{request}",
        what: "Requests under way",
        series: &[(None, |seen| Some(seen.state.instances.iter().map(|i| i64::from(i.in_flight)).sum()))],
    },
];

/// Ages, in seconds.
const AGES: &[Told<f64>] = &[
    Told {
        name: "consort.resolver.staleness",
        unit: "s",
        what: "Time since when look-ups in the registry fail; 0 while they succeed",
        series: &[(None, |seen| Some(seen.resolution.stale_since.map_or(0.0, age)))],
    },
    Told {
        name: "consort.resolver.snapshot_age",
        unit: "s",
        what: "Age of the set from disk that is used; none while the registry's own is",
        series: &[(None, |seen| seen.resolution.remembered.map(age))],
    },
    Told {
        name: "consort.registry.answer_age",
        unit: "s",
        what: "Age of the registry's last good answer, up to the wait of a blocking query while nothing changes; none before the first",
        series: &[(None, |seen| Some(seen.registry.as_ref()?.answer_age()?.as_secs_f64()))],
    },
];

fn open(counters: &Counters) -> i64 {
    // Read in this order, so that one that opens and closes between the two
    // reads does not make less than none.
    let closed = counters.connections_closed.get();
    i64::try_from(counters.connections_opened.get().saturating_sub(closed)).unwrap_or(i64::MAX)
}

/// The instances that are ready, or out for this reason.
fn count(seen: &Observed, decided_by: Option<&str>) -> i64 {
    number(seen, |instance| match decided_by {
        None => instance.ready,
        reason => !instance.ready && instance.decided_by == reason,
    })
}

fn number(seen: &Observed, which: impl Fn(&super::InstanceState) -> bool) -> i64 {
    let number = seen.state.instances.iter().filter(|instance| which(instance)).count();
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn age(since: SystemTime) -> f64 {
    since.elapsed().unwrap_or(Duration::ZERO).as_secs_f64()
}

impl<T> Told<T> {
    /// Every point of it, now.
    fn points(&self, channels: &Channels, mut tell: impl FnMut(T, &[KeyValue])) {
        for seen in channels() {
            let target = KeyValue::new("grpc.target", seen.service.clone());
            for (attribute, read) in self.series {
                let Some(value) = read(&seen) else { continue };
                match attribute {
                    None => tell(value, std::slice::from_ref(&target)),
                    Some((key, name)) => tell(value, &[target.clone(), KeyValue::new(*key, *name)]),
                }
            }
        }
    }
}

/// Makes the instruments; they read `channels` for as long as `meter`'s
/// provider lives.
pub(crate) fn observe(meter: &Meter, channels: &Channels) {
    for told in COUNTERS {
        let channels = channels.clone();
        let instrument = meter.u64_observable_counter(told.name).with_unit(told.unit);
        let read = move |to: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            told.points(&channels, |value, attributes| to.observe(value, attributes));
        };
        let _ = instrument.with_description(told.what).with_callback(read).build();
    }
    for told in GAUGES {
        let channels = channels.clone();
        let instrument = meter.i64_observable_up_down_counter(told.name).with_unit(told.unit);
        let read = move |to: &dyn opentelemetry::metrics::AsyncInstrument<i64>| {
            told.points(&channels, |value, attributes| to.observe(value, attributes));
        };
        let _ = instrument.with_description(told.what).with_callback(read).build();
    }
    for told in AGES {
        let channels = channels.clone();
        let instrument = meter.f64_observable_gauge(told.name).with_unit(told.unit);
        let read = move |to: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            told.points(&channels, |value, attributes| to.observe(value, attributes));
        };
        let _ = instrument.with_description(told.what).with_callback(read).build();
    }
}
