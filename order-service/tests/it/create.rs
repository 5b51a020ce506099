//! `CreateOrder`.

use std::time::Duration;

use mesh_proto::{
    google::r#type::Money,
    shop::order::v1::{CancelReason, CreateOrderRequest, Order, OrderLine, OrderState},
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
    assert_eq!((order.customer_id.as_str(), order.etag.as_str()), (CUSTOMER, "2"));
    assert_eq!((order.state(), &order.lines[0]), (OrderState::Confirmed, &tea));
    assert_eq!((order.lines[1].product_id.as_str(), order.lines[1].quantity), ("mug", 1));
    assert_eq!(order.total, euros(27, 470_000_000));
    assert!(order.create_time.is_some() && order.update_time.is_some());
    assert_eq!(app.get(&order.order_id).await.unwrap(), order);
    assert!(app.cart().await.items.is_empty());
    assert_eq!(app.pieces("tea").await, [997, 0, 3]);
    assert_eq!(app.pieces("mug").await, [999, 0, 1]);
}

async fn a_repeated_request_gets_the_same_response_whatever_happened_since(database: TestDatabase) {
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
            creating.spawn(async move { orders.create_order(request).await });
        }
        let mut answers = Vec::new();
        for answer in creating.join_all().await {
            match answer {
                Ok(order) => answers.push(order.into_inner()),
                Err(status) => {
                    let details = refused::<Order>(Err(status), Code::Aborted, "REQUEST_IN_PROGRESS");
                    assert!(details.retry_info().is_some());
                }
            }
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
        assert_eq!(app.create(&request, etag).await.unwrap(), answers[0]);
    }
    assert_eq!(app.pieces("tea").await, [992, 0, 8]);
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

async fn one_version_of_a_cart_is_ordered_once(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    for round in 0..20 {
        let cart = app.fill("tea", 1).await;
        let etag = if round % 4 == 0 { "" } else { &cart.etag };
        let requests = [(); 2].map(|()| creation(&new_request(), etag));
        let [(mut one, mine), (mut other, theirs)] =
            [(app.replica(0), requests[0].clone()), (app.replica(1), requests[1].clone())];
        let (one, other) = tokio::join!(one.create_order(mine), other.create_order(theirs));
        let refused = match (one, other) {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
            both => panic!("{both:?}"),
        };
        // A call after the cart was emptied finds another version, or nothing in it.
        assert!(matches!(refused.code(), Code::Aborted | Code::FailedPrecondition), "{refused:?}");
        for again in requests {
            let _ = app.replica(0).create_order(again).await;
        }
    }
    assert_eq!(app.list(CUSTOMER, 0, "").await.unwrap().0.len(), 20);
    assert_eq!(app.pieces("tea").await, [980, 0, 20]);
}

async fn a_request_that_was_out_of_stock_fails_again_the_same_way(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.fill("tea", 999).await;
    app.ordered_all().await;
    app.fill("mug", 3).await;
    app.fill("tea", 2).await;
    let request = new_request();
    let details = refused(app.create(&request, "").await, Code::FailedPrecondition, "OUT_OF_STOCK");
    assert_eq!(details.error_info().unwrap().metadata["product_ids"], "tea");
    let order = app.list(CUSTOMER, 1, "").await.unwrap().0.remove(0);
    assert_eq!((order.state(), order.cancel_reason()), (OrderState::Cancelled, CancelReason::OutOfStock));
    assert_eq!(app.pieces("mug").await, [1_000, 0, 0]);
    assert_eq!(app.cart().await.items.len(), 2, "what cannot be ordered stays in the cart");
    // Also when there is enough later.
    app.restock("tea", 5).await;
    refused(app.create(&request, "").await, Code::FailedPrecondition, "OUT_OF_STOCK");
    app.create(&new_request(), "").await.unwrap();
}

async fn an_order_has_the_total_that_the_caller_expects(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.fill("tea", 2).await;
    let wrong = CreateOrderRequest { expected_total: euros(9, 970_000_000), ..creation(&new_request(), "") };
    refused(app.replica(0).create_order(wrong.clone()).await, Code::FailedPrecondition, "TOTAL_CHANGED");
    let right = CreateOrderRequest { expected_total: euros(9, 980_000_000), ..wrong };
    let order = app.replica(0).create_order(right).await.unwrap().into_inner();
    assert_eq!(order.total, euros(9, 980_000_000));
}

async fn an_empty_cart_and_a_changed_one_are_not_ordered(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    refused(app.create(&new_request(), "").await, Code::FailedPrecondition, "CART_EMPTY");
    let etag = app.fill("tea", 1).await.etag;
    app.fill("tea", 1).await;
    let request = new_request();
    refused(app.create(&request, &etag).await, Code::Aborted, "CART_CHANGED");
    // The refused request was not stored.
    assert_eq!(app.create(&request, "").await.unwrap().lines[0].quantity, 2);
}

async fn a_request_is_known_after_the_clock_was_set_forward(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let request = new_request();
    app.fill("tea", 1).await;
    let order = app.create(&request, "").await.unwrap();
    app.set_clock_forward(25 * 3_600).await;
    app.fill("tea", 1).await;
    assert_eq!(app.create(&request, "").await.unwrap(), order);
    assert_eq!(app.list(CUSTOMER, 0, "").await.unwrap().0.len(), 1);
}

async fn a_malformed_request_is_rejected_field_by_field(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    for request_id in ["", "1", "not-a-uuid", "00000000-0000-0000-0000-000000000000"] {
        refused_fields(app.create(request_id, "").await, &["request_id"]);
    }
    let bad = CreateOrderRequest { customer_id: String::new(), ..creation("", "mine") };
    refused_fields(app.replica(0).create_order(bad).await, &["customer_id", "request_id", "cart_etag"]);
}

async fn without_cart_service_a_known_request_still_gets_its_response(database: TestDatabase) {
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
    a_repeated_request_gets_the_same_response_whatever_happened_since,
    a_request_id_is_not_for_another_request,
    one_request_sent_many_times_at_once_makes_one_order,
    two_requests_with_one_id_at_once_make_one_order,
    one_version_of_a_cart_is_ordered_once,
    a_request_that_was_out_of_stock_fails_again_the_same_way,
    an_order_has_the_total_that_the_caller_expects,
    an_empty_cart_and_a_changed_one_are_not_ordered,
    a_request_is_known_after_the_clock_was_set_forward,
    a_malformed_request_is_rejected_field_by_field,
    without_cart_service_a_known_request_still_gets_its_response,
);
