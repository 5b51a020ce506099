//! `WatchOrder`.

use std::time::Duration;

use mesh_proto::shop::order::v1::{Order, OrderState};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::app::{TestApp, refused};

async fn next(stream: &mut Streaming<Order>) -> Result<Option<Order>, Status> {
    timeout(Duration::from_secs(10), stream.message()).await.expect("no message came")
}

async fn a_watch_begins_with_the_current_state_and_sees_changes_through_any_replica(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let order = app.ordered().await;
    let (mut here, mut there) = (app.watch(0, &order.order_id).await, app.watch(1, &order.order_id).await);
    for stream in [&mut here, &mut there] {
        assert_eq!(next(stream).await.unwrap().unwrap(), order);
    }
    let cancelled = app.cancel(&order.order_id).await.unwrap();
    assert_eq!(cancelled.state(), OrderState::Cancelled);
    for stream in [&mut here, &mut there] {
        let mut seen = next(stream).await.unwrap().unwrap();
        while seen.state() == OrderState::Cancelling {
            seen = next(stream).await.unwrap().unwrap();
        }
        assert_eq!(seen, cancelled);
    }
}

async fn a_watch_ends_with_unavailable_when_its_replica_stops(database: TestDatabase) {
    let mut app = TestApp::with_replicas(database, 2).await;
    let order = app.ordered().await;
    let mut watch = app.watch(1, &order.order_id).await;
    assert_eq!(next(&mut watch).await.unwrap().unwrap(), order);
    app.replicas.pop().unwrap().stop().await;
    refused(next(&mut watch).await, Code::Unavailable, "DRAINING");
}

on_both_databases!(
    a_watch_begins_with_the_current_state_and_sees_changes_through_any_replica,
    a_watch_ends_with_unavailable_when_its_replica_stops,
);
