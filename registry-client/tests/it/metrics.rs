//! The metrics of channels.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, Metric, MetricData},
};
use registry_client::{
    ChannelConfig, Mesh,
    consul::Discovery,
    instance::ServiceName,
    policy::budget::BudgetConfig,
    resolve::{Resolution, Resolver, fixed::FixedResolver},
    testing::{FaultyServer, Reply},
};
use tokio::{runtime::Handle, sync::watch};

use crate::{
    consul::{
        agents::{TestAgent, eventually},
        discovery::register,
    },
    mesh::echo,
    server::Running,
};

/// A provider whose collection a test triggers.
struct Measured {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Measured {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader =
            PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3600)).build();
        Self { provider: SdkMeterProvider::builder().with_reader(reader).build(), exporter }
    }

    fn mesh(&self, resolver: &FixedResolver) -> Mesh {
        let mut config = ChannelConfig::default();
        config.deadline = Duration::from_secs(5);
        // What these tests send twice is not a fifth of their calls.
        config.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 40 };
        let mesh = Mesh::builder().resolver(resolver.clone()).channel_config(config);
        mesh.meter(self.provider.meter("registry-client")).build().unwrap()
    }

    /// Every series with its value, now.
    fn collect(&self) -> BTreeMap<String, f64> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let all = self.exporter.get_finished_metrics().unwrap();
        let metrics = all.iter().flat_map(|all| all.scope_metrics()).flat_map(|scope| scope.metrics());
        metrics.flat_map(series).collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn series(metric: &Metric) -> Vec<(String, f64)> {
    assert!(!metric.description().is_empty() && !metric.unit().is_empty(), "{metric:?}");
    let name = |pairs: &mut dyn Iterator<Item = &KeyValue>| {
        let mut words: Vec<_> = pairs.map(|kv| format!("{}={}", kv.key, kv.value)).collect();
        words.sort();
        format!("{} {}", metric.name(), words.join(" "))
    };
    match metric.data() {
        AggregatedMetrics::U64(MetricData::Sum(data)) => {
            data.data_points().map(|p| (name(&mut p.attributes()), p.value() as f64)).collect()
        }
        AggregatedMetrics::I64(MetricData::Sum(data)) => {
            data.data_points().map(|p| (name(&mut p.attributes()), p.value() as f64)).collect()
        }
        AggregatedMetrics::F64(MetricData::Gauge(data)) => {
            data.data_points().map(|p| (name(&mut p.attributes()), p.value())).collect()
        }
        AggregatedMetrics::F64(MetricData::Histogram(data)) => {
            data.data_points().map(|p| (name(&mut p.attributes()), p.count() as f64)).collect()
        }
        AggregatedMetrics::U64(MetricData::Histogram(data)) => {
            data.data_points().map(|p| (name(&mut p.attributes()), p.count() as f64)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_meter_is_reported_what_channels_did_and_know_under_the_names_of_grpc() {
    let (refuses, echoes) =
        (FaultyServer::start(Reply::Echo).await.unwrap(), FaultyServer::start(Reply::Echo).await.unwrap());
    // Not so many in a row that it is ejected.
    refuses.set_share(0.5, Reply::Refuse);
    let resolver = FixedResolver::with([refuses.instance("a"), echoes.instance("b")]);
    let measured = Measured::new();
    let mesh = measured.mesh(&resolver);
    let channel = mesh.channel("web");
    eventually("both are ready", || async { channel.state().unwrap().ready == 2 }).await;
    for _ in 0..50 {
        assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
    }
    resolver.fail("the registry is on fire");
    tokio::time::sleep(Duration::from_millis(5)).await;

    let reported = measured.collect();
    let is = |series: &str| {
        reported.get(series).copied().unwrap_or_else(|| panic!("no `{series}` in {reported:#?}"))
    };
    assert_eq!(is("consort.client.calls grpc.target=web"), 50.0);
    let again = is("consort.client.retries consort.retry.kind=transparent grpc.target=web");
    assert!(again > 0.0);
    assert_eq!(is("grpc.client.attempt.started grpc.target=web"), 50.0 + again);
    assert_eq!(is("consort.client.retries consort.retry.kind=hedge grpc.target=web"), 0.0);
    assert_eq!(is("grpc.subchannel.open_connections grpc.target=web"), 2.0);
    assert_eq!(is("grpc.subchannel.connection_attempts_succeeded grpc.target=web"), 2.0);
    assert_eq!(is("consort.client.instances consort.instance.state=ready grpc.target=web"), 2.0);
    assert_eq!(is("consort.client.requests_in_flight grpc.target=web"), 0.0);
    assert!(is("consort.resolver.staleness grpc.target=web") > 0.0);
    assert!(!reported.contains_key("consort.resolver.snapshot_age grpc.target=web"));
    // A fixed set has no registry.
    assert!(!reported.keys().any(|series| series.starts_with("consort.registry.")), "{reported:#?}");

    // Gone from the registry, but answering.
    resolver.set([echoes.instance("b")]);
    eventually("it is kept", || async {
        measured.collect()["consort.client.instances_unlisted grpc.target=web"] == 1.0
    })
    .await;
    assert_eq!(measured.collect()["consort.resolver.staleness grpc.target=web"], 0.0);
}

#[tokio::test]
async fn a_meter_keeps_no_mesh_alive_and_sees_each_of_its_channels() {
    let peer = FaultyServer::start(Reply::Echo).await.unwrap();
    let measured = Measured::new();
    let mesh = measured.mesh(&FixedResolver::with([peer.instance("a")]));
    let channels = ["cart", "order"].map(|service| mesh.channel(service));
    for channel in &channels {
        assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
    }
    let calls = |reported: BTreeMap<String, f64>| -> Vec<_> {
        reported.into_iter().filter(|(name, _)| name.starts_with("consort.client.calls grpc")).collect()
    };
    let both = ["cart", "order"].map(|service| (format!("consort.client.calls grpc.target={service}"), 1.0));
    assert_eq!(calls(measured.collect()), both);
    drop((mesh, channels));
    assert_eq!(calls(measured.collect()), []);
}

#[tokio::test]
async fn a_meter_is_reported_how_the_registry_answers() {
    let mut agent = TestAgent::development().await;
    let server = Running::start(|_| {}).await;
    register(&agent, &server, "v2").await;
    let (measured, dir) = (Measured::new(), tempfile::tempdir().unwrap());
    let v2 = Discovery::default().filter(r#"Service.Meta.version == "v2""#);
    let mesh = Mesh::builder().consul(agent.client()).discover("test", v2).state_dir(dir.path());
    let mesh = mesh.meter(measured.provider.meter("registry-client")).build().unwrap();
    assert_eq!(echo(mesh.channel("test")).await.unwrap(), "hello");
    let is = |name: &str| measured.collect()[&format!("consort.registry.{name} grpc.target=test")];
    eventually("it waits for a change", || async { is("queries") >= 2.0 }).await;
    assert_eq!((is("errors"), is("unchanged_wakes")), (0.0, 0.0));

    // It wakes the query, and the filter leaves it out.
    let other = Running::start(|_| {}).await;
    register(&agent, &other, "v1").await;
    eventually("a wake brings nothing", || async { is("unchanged_wakes") >= 1.0 }).await;
    assert_eq!(is("errors"), 0.0);

    agent.stop().await;
    eventually("queries fail", || async { is("errors") >= 2.0 }).await;
    let (age, errors, queries) = (is("answer_age"), is("errors"), is("queries"));
    eventually("the answer ages", || async { is("answer_age") > age + 1.0 }).await;
    assert!(is("errors") >= errors && is("queries") >= queries);

    agent.start().await;
    eventually("there is a new answer", || async { is("answer_age") < age + 1.0 }).await;
}

/// Reports the call of `resolve`, which is while a channel is created.
struct Reporting {
    resolving: Sender<()>,
    resolver: FixedResolver,
}

impl Resolver for Reporting {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let _ = self.resolving.send(());
        self.resolver.resolve(service)
    }
}

#[tokio::test]
async fn a_channel_can_be_opened_while_a_reader_collects() {
    let Measured { provider, .. } = Measured::new();
    let meter = provider.meter("registry-client");
    let ((resolving, opening), (begun, collecting), (done, ends)) = (channel(), channel(), channel());
    let opening = Mutex::new(opening);
    // Made before the mesh's instruments, hence called before them, under the
    // lock that the SDK has around all of them.
    let first = meter.u64_observable_gauge("first").with_callback(move |_| {
        let _ = begun.send(());
        // Until a channel is half made, or waits for that lock.
        let _ = opening.lock().unwrap().recv_timeout(Duration::from_millis(300));
    });
    let _first = first.build();
    let resolver = Reporting { resolving, resolver: FixedResolver::with([]) };
    let mesh = Mesh::builder().resolver(resolver).meter(meter).build().unwrap();

    // Threads, for a runtime would wait for those that never end.
    let (runtime, collected) = (Handle::current(), done.clone());
    thread::spawn(move || collected.send(provider.force_flush().is_ok()));
    collecting.recv().unwrap();
    thread::spawn(move || {
        let _in = runtime.enter();
        done.send(mesh.channel("web").state().is_some())
    });
    for _ in 0..2 {
        let ended = ends.recv_timeout(Duration::from_secs(20));
        assert!(ended.expect("the collection and the channel wait for each other"));
    }
}
