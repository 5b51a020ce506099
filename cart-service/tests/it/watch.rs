//! `WatchCart`.

use std::time::Duration;

use mesh_proto::shop::cart::v1::Cart;
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::app::{TestApp, contents, refused};

pub(crate) async fn next(stream: &mut Streaming<Cart>) -> Result<Option<Cart>, Status> {
    timeout(Duration::from_secs(10), stream.message()).await.expect("no message came")
}

async fn seen(stream: &mut Streaming<Cart>) -> String {
    contents(&next(stream).await.unwrap().unwrap())
}

async fn a_watch_begins_with_the_present_and_sees_changes_through_any_replica(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    app.add("tea", 1, "").await.unwrap();
    let (mut here, mut there) = (app.watch(0).await, app.watch(1).await);
    for (change, expected) in [("", "tea*1"), ("mug", "tea*1 mug*1"), ("clear", "")] {
        match change {
            "" => {}
            "clear" => drop(app.clear("").await.unwrap()),
            product => drop(app.add(product, 1, "").await.unwrap()),
        }
        assert_eq!((seen(&mut here).await.as_str(), seen(&mut there).await.as_str()), (expected, expected));
    }
}

async fn a_slow_watcher_ends_with_the_last_state(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let mut watch = app.watch(0).await;
    for _ in 0..50 {
        app.add("tea", 1, "").await.unwrap();
    }
    let mut messages = 1;
    while seen(&mut watch).await != "tea*50" {
        messages += 1;
    }
    assert!(messages <= 51);
}

async fn a_watch_ends_with_unavailable_when_its_replica_stops(database: TestDatabase) {
    let mut app = TestApp::with_replicas(database, 2).await;
    let mut watch = app.watch(1).await;
    assert_eq!(seen(&mut watch).await, "");
    app.replicas.pop().unwrap().stop().await;
    refused(next(&mut watch).await, Code::Unavailable, "DRAINING");
}

on_both_databases!(
    a_watch_begins_with_the_present_and_sees_changes_through_any_replica,
    a_slow_watcher_ends_with_the_last_state,
    a_watch_ends_with_unavailable_when_its_replica_stops,
);
