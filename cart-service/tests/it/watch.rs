//! `WatchCart`.

use std::time::Duration;

use cart_service::{CartService, NAME};
use mesh_proto::shop::cart::v1::{Cart, WatchCartRequest, cart_service_client::CartServiceClient};
use service_kit::{
    auth::{Outgoing, Role},
    on_both_databases,
    testing::{Callers, Replica, TestDatabase, mesh_to},
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::app::{CUSTOMER, TestApp, contents, refused};

pub(crate) async fn next(stream: &mut Streaming<Cart>) -> Result<Option<Cart>, Status> {
    timeout(Duration::from_secs(10), stream.message()).await.expect("no message came")
}

async fn seen(stream: &mut Streaming<Cart>) -> String {
    contents(&next(stream).await.unwrap().unwrap())
}

async fn a_watch_begins_with_the_current_cart_and_sees_changes_through_any_replica(database: TestDatabase) {
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

async fn a_watch_ends_when_its_token_expires(database: TestDatabase) {
    let callers = Callers::new();
    let cart = Replica::with_auth::<CartService>(mesh_to([]), &database, callers.auth(NAME)).await;
    let channel = mesh_to([cart.address]).channel(NAME);
    let watch = async |through: Outgoing| {
        let request = WatchCartRequest { customer_id: CUSTOMER.into() };
        CartServiceClient::new(through).watch_cart(request).await.unwrap().into_inner()
    };
    let left = Duration::from_secs(2);
    let through = callers.client_for(left, channel.clone(), CUSTOMER, [Role::Customer]);
    let mut expiring = watch(through).await;
    let mut lasting = watch(callers.client(channel, CUSTOMER, [Role::Customer])).await;
    assert_eq!(seen(&mut expiring).await, "");
    refused(next(&mut expiring).await, Code::Unauthenticated, "TOKEN_EXPIRED");
    assert!(next(&mut expiring).await.unwrap().is_none());

    // The watch with the other token continues.
    assert_eq!(seen(&mut lasting).await, "");
}

on_both_databases!(
    a_watch_ends_when_its_token_expires,
    a_watch_begins_with_the_current_cart_and_sees_changes_through_any_replica,
    a_slow_watcher_ends_with_the_last_state,
    a_watch_ends_with_unavailable_when_its_replica_stops,
);
