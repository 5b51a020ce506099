//! Orders that were made.

use mesh_proto::shop::order::v1::{CancelOrderRequest, OrderState};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::Code;

use crate::app::{CUSTOMER, TestApp, new_request, refused, refused_fields};

async fn cancelling_twice_is_the_same_answer(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let order = app.ordered().await;
    let cancelled = app.cancel(&order.order_id).await.unwrap();
    assert_eq!((cancelled.state(), cancelled.etag.as_str()), (OrderState::Cancelled, "2"));
    assert_eq!((&cancelled.lines, &cancelled.create_time), (&order.lines, &order.create_time));
    assert_eq!(app.cancel(&order.order_id).await.unwrap(), cancelled);
    assert_eq!(app.get(&order.order_id).await.unwrap(), cancelled);
}

async fn cancelling_at_once_through_two_replicas_is_one_change(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let order_id = app.ordered().await.order_id;
    let mut cancelling = JoinSet::new();
    for n in 0..20 {
        let (mut orders, order_id) = (app.replica(n % 2), order_id.clone());
        cancelling.spawn(async move {
            orders.cancel_order(CancelOrderRequest { order_id }).await.unwrap().into_inner()
        });
    }
    for order in cancelling.join_all().await {
        assert_eq!((order.state(), order.etag.as_str()), (OrderState::Cancelled, "2"));
    }
}

async fn an_order_that_is_not_there_is_not_found(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let nobodys = new_request();
    refused(app.get(&nobodys).await, Code::NotFound, "ORDER_NOT_FOUND");
    refused(app.cancel(&nobodys).await, Code::NotFound, "ORDER_NOT_FOUND");
    let watched = app.watch(0, &nobodys).await.message().await;
    refused(watched, Code::NotFound, "ORDER_NOT_FOUND");
    refused_fields(app.get("1").await, &["order_id"]);
    refused_fields(app.cancel("").await, &["order_id"]);
}

async fn orders_are_listed_newest_first_and_each_customers_own(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(app.ordered().await);
    }
    made.reverse();
    assert_eq!(app.list(CUSTOMER, 0, "").await.unwrap(), (made.clone(), String::new()));
    let (first, token) = app.list(CUSTOMER, 2, "").await.unwrap();
    let (second, next) = app.list(CUSTOMER, 2, &token).await.unwrap();
    let (third, end) = app.list(CUSTOMER, 2, &next).await.unwrap();
    assert_eq!(([first, second, third].concat(), end.as_str()), (made, ""));
    assert_eq!(app.list("bob", 0, "").await.unwrap(), (Vec::new(), String::new()));
    refused_fields(app.list("bob", 0, &token).await, &["page_token"]);
    refused_fields(app.list("", -1, "x").await, &["customer_id", "page_size", "page_token"]);
}

on_both_databases!(
    cancelling_twice_is_the_same_answer,
    cancelling_at_once_through_two_replicas_is_one_change,
    an_order_that_is_not_there_is_not_found,
    orders_are_listed_newest_first_and_each_customers_own,
);
