//! Failures of cart-service, and the reading of orders afterwards.

use std::time::{Duration, Instant};

use mesh_proto::shop::{
    cart::v1::CartItem,
    order::v1::{OrderLine, OrderState},
};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::{Code, Status};

use crate::{
    app::{CUSTOMER, refused},
    fakes::{Behavior, CARD, FakeApp, create_request, item, money},
};

async fn items_added_to_the_cart_meanwhile_stay(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.carts.put_after_reading(item("jug", 3_000, 1));
    let order = app.create(0, create_request(CUSTOMER)).await.unwrap();
    assert_eq!(order.lines.len(), 1);
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 2);
}

async fn a_cart_that_cannot_be_cleared_is_cleared_later(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.carts.clearing.set(Behavior::Hangs);
    let request = create_request(CUSTOMER);
    let begun = Instant::now();
    let order = app.create(0, request.clone()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 1);
    // The order does not wait for its cart.
    assert_eq!(app.pay(0, &order.order_id, CARD).await.unwrap().state(), OrderState::Paid);
    app.carts.clearing.set(Behavior::Works);
    let emptied = async {
        while !app.carts.cart(CUSTOMER).items.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), emptied).await.unwrap();
    assert_eq!(app.create(0, request).await.unwrap(), order);
}

async fn failures_of_cart_service_are_reported_by_their_kind(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    let request = create_request(CUSTOMER);
    let answers = [
        (Status::unavailable("x"), Code::Unavailable, "DEPENDENCY_UNAVAILABLE"),
        (Status::deadline_exceeded("x"), Code::DeadlineExceeded, "DEPENDENCY_SLOW"),
        (Status::failed_precondition("no tea"), Code::FailedPrecondition, "CART_NOT_ORDERABLE"),
        (Status::not_found("x"), Code::Internal, "INTERNAL"),
    ];
    for (answer, code, reason) in answers {
        app.carts.reading.set(Behavior::Fails(answer));
        refused(app.create(0, request.clone()).await, code, reason);
    }
    // None of them used up the request id.
    app.carts.reading.set(Behavior::Works);
    app.create(0, request).await.unwrap();
}

async fn a_silent_cart_service_is_named_before_the_deadline(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.reading.set(Behavior::Hangs);
    let slow =
        refused(app.create(0, create_request(CUSTOMER)).await, Code::DeadlineExceeded, "DEPENDENCY_SLOW");
    assert_eq!(slow.error_info().unwrap().metadata["dependency"], "cart-service");
}

async fn a_known_request_orders_no_other_cart_and_waits_for_none(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    let request = create_request(CUSTOMER);
    let order = app.create(0, request.clone()).await.unwrap();
    app.carts.put(CUSTOMER, [item("jug", 3_000, 1)]);
    assert_eq!(app.create(0, request.clone()).await.unwrap(), order);
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 1);
    assert_eq!(app.list(CUSTOMER, 0, "").await.0.len(), 1);
    app.carts.reading.set(Behavior::Hangs);
    let begun = Instant::now();
    assert_eq!(app.create(0, request).await.unwrap(), order);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

async fn a_cart_without_a_total_and_an_invalid_one_are_not_ordered(database: TestDatabase) {
    let app = FakeApp::spawn(database, 1).await;
    let yen = CartItem { unit_price: Some(money("JPY", 500, 0)), ..item("jug", 0, 1) };
    app.carts.put("mixed", [item("tea", 499, 1), yen]);
    refused(app.create(0, create_request("mixed")).await, Code::FailedPrecondition, "CART_HAS_NO_TOTAL");
    let dear = CartItem { unit_price: Some(money("EUR", i64::MAX / 200, 0)), ..item("jug", 0, 3) };
    app.carts.put("rich", [dear]);
    refused(app.create(0, create_request("rich")).await, Code::FailedPrecondition, "CART_HAS_NO_TOTAL");
    // An error of cart-service, not of the caller.
    app.carts.put("odd", [item("tea", 499, 1_000)]);
    refused(app.create(0, create_request("odd")).await, Code::Internal, "INTERNAL");
}

async fn a_large_cart_is_stored_exactly(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 1).await;
    let titles = ["\"quoted\" \\ back", "'; DROP TABLE orders; --", "☕🫖 $1 ${x} {}", "\u{2028}ü\u{301}"];
    let full = (0..100).zip(titles.into_iter().cycle()).map(|(n, title)| CartItem {
        // More digits than a float has.
        unit_price: Some(money("EUR", 90_071_992_547_409 + n, 930_000_000)),
        title: title.repeat(8),
        ..item(&format!("p-{n}"), 0, 10)
    });
    app.carts.put(CUSTOMER, full);
    let held = app.carts.cart(CUSTOMER).items;
    let order = app.create(0, create_request(CUSTOMER)).await.unwrap();
    assert_eq!(order.lines, held.into_iter().map(line).collect::<Vec<_>>());
    app.restart().await;
    assert_eq!(app.get(&order.order_id).await.unwrap(), order);
}

fn line(item: CartItem) -> OrderLine {
    let CartItem { product_id, title, unit_price, quantity, .. } = item;
    OrderLine { product_id, title, unit_price, quantity }
}

async fn a_list_is_complete_while_orders_are_created(database: TestDatabase) {
    let app = FakeApp::spawn(database, 2).await;
    let mut made = Vec::new();
    for n in 0..25 {
        made.push(app.ordered(n % 2, CUSTOMER).await);
        app.ordered(0, "bob").await;
    }
    made.reverse();
    let (mut listed, mut token, mut pages) = (Vec::new(), String::new(), 0);
    while pages == 0 || !token.is_empty() {
        let page;
        (page, token) = app.list(CUSTOMER, 7, &token).await;
        listed.extend(page);
        pages += 1;
        // Newer than the listed orders, so on no further page.
        app.ordered(1, CUSTOMER).await;
    }
    assert_eq!((listed, pages), (made, 4));
}

on_both_databases!(
    items_added_to_the_cart_meanwhile_stay,
    a_cart_that_cannot_be_cleared_is_cleared_later,
    failures_of_cart_service_are_reported_by_their_kind,
    a_silent_cart_service_is_named_before_the_deadline,
    a_known_request_orders_no_other_cart_and_waits_for_none,
    a_cart_without_a_total_and_an_invalid_one_are_not_ordered,
    a_large_cart_is_stored_exactly,
    a_list_is_complete_while_orders_are_created,
);
