//! What cart-service may do to an order, and what becomes of orders later.

use std::time::{Duration, Instant};

use mesh_proto::shop::{
    cart::v1::CartItem,
    order::v1::{OrderLine, OrderState},
};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::{Code, Status};

use crate::{
    app::{CUSTOMER, refused},
    played::{CARD, Mood, PlayedApp, item, money, wanted},
};

async fn what_came_into_the_cart_meanwhile_stays(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.carts.put_after_reading(item("jug", 3_000, 1));
    let order = app.create(0, wanted(CUSTOMER)).await.unwrap();
    assert_eq!(order.lines.len(), 1);
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 2);
}

async fn a_cart_that_cannot_be_emptied_is_emptied_later(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    app.carts.clearing.set(Mood::Hangs);
    let request = wanted(CUSTOMER);
    let begun = Instant::now();
    let order = app.create(0, request.clone()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 1);
    // Its cart is nothing that the order waits for.
    assert_eq!(app.pay(0, &order.order_id, CARD).await.unwrap().state(), OrderState::Paid);
    app.carts.clearing.set(Mood::Works);
    let emptied = async {
        while !app.carts.cart(CUSTOMER).items.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), emptied).await.unwrap();
    assert_eq!(app.create(0, request).await.unwrap(), order);
}

async fn what_cart_service_cannot_do_is_told_as_it_is(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    let request = wanted(CUSTOMER);
    let answers = [
        (Status::unavailable("x"), Code::Unavailable, "DEPENDENCY_UNAVAILABLE"),
        (Status::deadline_exceeded("x"), Code::DeadlineExceeded, "DEPENDENCY_SLOW"),
        (Status::failed_precondition("no tea"), Code::FailedPrecondition, "CART_NOT_ORDERABLE"),
        (Status::not_found("x"), Code::Internal, "INTERNAL"),
    ];
    for (answer, code, reason) in answers {
        app.carts.reading.set(Mood::Fails(answer));
        refused(app.create(0, request.clone()).await, code, reason);
    }
    // None of them used the request up.
    app.carts.reading.set(Mood::Works);
    app.create(0, request).await.unwrap();
}

async fn a_cart_service_that_does_not_answer_is_named_in_time(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 1).await;
    app.carts.reading.set(Mood::Hangs);
    let slow = refused(app.create(0, wanted(CUSTOMER)).await, Code::DeadlineExceeded, "DEPENDENCY_SLOW");
    assert_eq!(slow.error_info().unwrap().metadata["dependency"], "cart-service");
}

async fn a_known_request_orders_no_other_cart_and_waits_for_none(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 1).await;
    app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    let request = wanted(CUSTOMER);
    let order = app.create(0, request.clone()).await.unwrap();
    app.carts.put(CUSTOMER, [item("jug", 3_000, 1)]);
    assert_eq!(app.create(0, request.clone()).await.unwrap(), order);
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 1);
    assert_eq!(app.list(CUSTOMER, 0, "").await.0.len(), 1);
    app.carts.reading.set(Mood::Hangs);
    let begun = Instant::now();
    assert_eq!(app.create(0, request).await.unwrap(), order);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

async fn what_has_no_total_or_is_no_cart_is_not_ordered(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 1).await;
    let yen = CartItem { unit_price: Some(money("JPY", 500, 0)), ..item("jug", 0, 1) };
    app.carts.put("mixed", [item("tea", 499, 1), yen]);
    refused(app.create(0, wanted("mixed")).await, Code::FailedPrecondition, "CART_HAS_NO_TOTAL");
    let dear = CartItem { unit_price: Some(money("EUR", i64::MAX / 200, 0)), ..item("jug", 0, 3) };
    app.carts.put("rich", [dear]);
    refused(app.create(0, wanted("rich")).await, Code::FailedPrecondition, "CART_HAS_NO_TOTAL");
    // That is cart-service's fault, not the caller's.
    app.carts.put("odd", [item("tea", 499, 1_000)]);
    refused(app.create(0, wanted("odd")).await, Code::Internal, "INTERNAL");
}

async fn a_full_cart_is_kept_exactly_also_after_a_restart(database: TestDatabase) {
    let mut app = PlayedApp::spawn(database, 1).await;
    let titles = ["\"quoted\" \\ back", "'; DROP TABLE orders; --", "☕🫖 $1 ${x} {}", "\u{2028}ü\u{301}"];
    let full = (0..100).zip(titles.into_iter().cycle()).map(|(n, title)| CartItem {
        // Beyond what a float holds exactly.
        unit_price: Some(money("EUR", 90_071_992_547_409 + n, 930_000_000)),
        title: title.repeat(8),
        ..item(&format!("p-{n}"), 0, 10)
    });
    app.carts.put(CUSTOMER, full);
    let held = app.carts.cart(CUSTOMER).items;
    let order = app.create(0, wanted(CUSTOMER)).await.unwrap();
    assert_eq!(order.lines, held.into_iter().map(line).collect::<Vec<_>>());
    app.restart().await;
    assert_eq!(app.get(&order.order_id).await.unwrap(), order);
}

fn line(item: CartItem) -> OrderLine {
    let CartItem { product_id, title, unit_price, quantity, .. } = item;
    OrderLine { product_id, title, unit_price, quantity }
}

async fn a_listing_leaves_nothing_out_while_orders_come_in(database: TestDatabase) {
    let app = PlayedApp::spawn(database, 2).await;
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
        // Younger than what was listed, so on no page that is still to come.
        app.ordered(1, CUSTOMER).await;
    }
    assert_eq!((listed, pages), (made, 4));
}

on_both_databases!(
    what_came_into_the_cart_meanwhile_stays,
    a_cart_that_cannot_be_emptied_is_emptied_later,
    what_cart_service_cannot_do_is_told_as_it_is,
    a_cart_service_that_does_not_answer_is_named_in_time,
    a_known_request_orders_no_other_cart_and_waits_for_none,
    what_has_no_total_or_is_no_cart_is_not_ordered,
    a_full_cart_is_kept_exactly_also_after_a_restart,
    a_listing_leaves_nothing_out_while_orders_come_in,
);
