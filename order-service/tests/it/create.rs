//! `CreateOrder`.

use std::time::Duration;

use mesh_proto::{
    google::r#type::Money,
    shop::order::v1::{CreateOrderRequest, OrderLine, OrderState},
};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::app::{CUSTOMER, TestApp, creation, new_request, refused, refused_fields};

fn euros(units: i64, nanos: i32) -> Option<Money> {
    Some(Money { currency_code: "EUR".into(), units, nanos })
}

async fn an_order_copies_the_cart_and_empties_it(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.fill("tea", 3).await;
    let cart = app.fill("mug", 1).await;
    let order = app.create(&new_request(), &cart.etag).await.unwrap();
    let tea = OrderLine {
        product_id: "tea".into(),
        title: "A \"tea\"".into(),
        unit_price: euros(4, 990_000_000),
        quantity: 3,
    };
    assert_eq!((order.customer_id.as_str(), order.etag.as_str()), (CUSTOMER, "1"));
    assert_eq!((order.state(), &order.lines[0]), (OrderState::Confirmed, &tea));
    assert_eq!((order.lines[1].product_id.as_str(), order.lines[1].quantity), ("mug", 1));
    assert_eq!(order.total, euros(27, 470_000_000));
    assert!(order.create_time.is_some() && order.create_time == order.update_time);
    assert_eq!(app.get(&order.order_id).await.unwrap(), order);
    assert!(app.cart().await.items.is_empty());
}

async fn the_same_request_is_answered_the_same_whatever_happened_since(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let etag = app.fill("tea", 1).await.etag;
    let request = new_request();
    let order = app.create(&request, &etag).await.unwrap();
    assert_eq!(app.create(&request, &etag).await.unwrap(), order);
    app.fill("mug", 1).await;
    assert_eq!(app.create(&request.to_uppercase(), &etag).await.unwrap(), order);
    app.cancel(&order.order_id).await.unwrap();
    let again = app.replica(1).create_order(creation(&request, &etag)).await.unwrap().into_inner();
    assert_eq!(again, order);
    assert_eq!(app.cart().await.items.len(), 1, "what came after the order stays in the cart");
    assert_eq!(app.list(CUSTOMER, 0, "").await.unwrap().0.len(), 1);
}

async fn a_request_id_is_not_for_another_request(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let etag = app.fill("tea", 1).await.etag;
    let request = new_request();
    app.create(&request, &etag).await.unwrap();
    let details = refused(app.create(&request, "").await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "request_id");
    app.fill_of("bob", "tea", 1).await;
    let others = CreateOrderRequest { customer_id: "bob".into(), ..creation(&request, &etag) };
    refused(app.replica(0).create_order(others).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
}

async fn one_request_sent_many_times_at_once_makes_one_order(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    for round in 0..4 {
        let cart = app.fill("tea", 2).await;
        // Some find the cart emptied by others: another cart than they insist on.
        let (request, etag) = (new_request(), if round % 2 == 0 { "" } else { &cart.etag });
        let mut creating = JoinSet::new();
        for n in 0..50 {
            let (mut orders, request) = (app.replica(n % 2), creation(&request, etag));
            creating.spawn(async move { orders.create_order(request).await.unwrap().into_inner() });
        }
        let mut answers = creating.join_all().await;
        answers.dedup();
        assert_eq!(answers.len(), 1);
    }
    assert_eq!(app.list(CUSTOMER, 0, "").await.unwrap().0.len(), 4);
}

async fn two_requests_with_one_id_at_once_make_one_order(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    for _ in 0..5 {
        app.fill("tea", 1).await;
        app.fill_of("bob", "tea", 1).await;
        let mine = creation(&new_request(), "");
        let bobs = CreateOrderRequest { customer_id: "bob".into(), ..mine.clone() };
        let (mut one, mut other) = (app.replica(0), app.replica(1));
        let not_made = match tokio::join!(one.create_order(mine), other.create_order(bobs)) {
            (Ok(_), not_made) | (not_made, Ok(_)) => not_made,
            neither => panic!("{neither:?}"),
        };
        refused(not_made, Code::InvalidArgument, "REQUEST_ID_REUSED");
    }
}

async fn an_empty_cart_and_a_changed_one_make_no_order(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    refused(app.create(&new_request(), "").await, Code::FailedPrecondition, "CART_EMPTY");
    let etag = app.fill("tea", 1).await.etag;
    app.fill("tea", 1).await;
    let request = new_request();
    refused(app.create(&request, &etag).await, Code::Aborted, "CART_CHANGED");
    // What was refused was not used up.
    assert_eq!(app.create(&request, "").await.unwrap().lines[0].quantity, 2);
}

async fn what_is_malformed_is_refused_field_by_field(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    for request_id in ["", "1", "not-a-uuid", "00000000-0000-0000-0000-000000000000"] {
        refused_fields(app.create(request_id, "").await, &["request_id"]);
    }
    let bad = CreateOrderRequest { customer_id: String::new(), ..creation("", "mine") };
    refused_fields(app.replica(0).create_order(bad).await, &["customer_id", "request_id", "cart_etag"]);
}

async fn without_cart_service_a_known_request_is_still_answered(database: TestDatabase) {
    let mut app = TestApp::spawn(database).await;
    let request = new_request();
    app.fill("tea", 1).await;
    let order = app.create(&request, "").await.unwrap();
    app.cart_replica.take().unwrap().stop().await;
    assert_eq!(app.create(&request, "").await.unwrap(), order);
    let mut other = Request::new(creation(&new_request(), ""));
    other.set_timeout(Duration::from_millis(500));
    let status = app.replica(0).create_order(other).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
}

on_both_databases!(
    an_order_copies_the_cart_and_empties_it,
    the_same_request_is_answered_the_same_whatever_happened_since,
    a_request_id_is_not_for_another_request,
    one_request_sent_many_times_at_once_makes_one_order,
    two_requests_with_one_id_at_once_make_one_order,
    an_empty_cart_and_a_changed_one_make_no_order,
    what_is_malformed_is_refused_field_by_field,
    without_cart_service_a_known_request_is_still_answered,
);
