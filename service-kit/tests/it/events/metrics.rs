//! Events and calls in `/metrics`.

use std::{collections::BTreeSet, net::SocketAddr};

use registry_client::{AdminConfig, Mesh, resolve::fixed::FixedResolver};
use service_kit::{metrics::Metrics, testing::TestDatabase};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::bed::{Bed, PRODUCER, until};

/// Gets the current page.
async fn metrics(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, page) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{response}");
    page.to_owned()
}

/// The value of a series.
fn value(page: &str, series: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no `{series}` in\n{page}")).parse().unwrap()
}

/// Every series has a type and is explained.
fn is_well_formed(page: &str) {
    let named = |comment| {
        let names = page.lines().filter_map(move |line| line.strip_prefix(comment)?.split(' ').next());
        names.collect::<BTreeSet<_>>()
    };
    let (helped, typed) = (named("# HELP "), named("# TYPE "));
    assert_eq!(helped, typed);
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(typed.contains(name) || family.is_some_and(|family| typed.contains(family)), "{line}");
    }
}

const WAITING: &str = r#"shop_events_waiting{shop_subscriber="consumer"}"#;
const AGE: &str = r#"shop_events_oldest_age_seconds{shop_subscriber="consumer"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_delivered_shows_in_the_backlog_and_ages() {
    // Nothing accepts connections there yet.
    let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = there.local_addr().unwrap();
    let mesh = Mesh::builder().resolver(FixedResolver::new([address]));
    let mesh = Metrics::of(PRODUCER, "1.2.3").unwrap().measure(mesh).build().unwrap();
    let admin = mesh.admin(&AdminConfig::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let bed = Bed::new(TestDatabase::sqlite()).await;
    let _producer = bed.produce_by(mesh).await;
    assert!(until(async || metrics(admin).await.contains(AGE)).await, "its events are not measured");
    let page = metrics(admin).await;
    assert_eq!((value(&page, WAITING), value(&page, AGE)), (0.0, 0.0));

    bed.change("sound").await;
    assert!(until(async || value(&metrics(admin).await, WAITING) == 1.0).await);
    let age = value(&metrics(admin).await, AGE);
    assert!(until(async || value(&metrics(admin).await, AGE) > age + 0.1).await);

    let _consumer = bed.consume_at(there).await;
    bed.drained().await;
    assert!(until(async || value(&metrics(admin).await, WAITING) == 0.0).await);
    let page = metrics(admin).await;
    is_well_formed(&page);
    assert_eq!(value(&page, AGE), 0.0);
    assert_eq!(value(&page, r#"shop_events_delivered_total{shop_subscriber="consumer"}"#), 1.0);
    assert!(page.contains("shop_events_failures_total"));
    assert!(value(&page, r#"grpc_client_attempt_started_total{grpc_target="consumer"}"#) >= 1.0);
    let ok = r#"grpc_client_attempt_duration_seconds_count{grpc_status="OK",grpc_target="consumer"}"#;
    assert_eq!(value(&page, ok), 1.0);
    assert_eq!(value(&page, r#"target_info{service_name="producer",service_version="1.2.3"}"#), 1.0);
}
