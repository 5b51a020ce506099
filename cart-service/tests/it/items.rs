//! Changes of a cart and their limits.

use std::{mem, time::Duration};

use mesh_proto::{
    google::r#type::Money,
    shop::cart::v1::{CartItem, GetCartRequest},
};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::{Code, Request};

use crate::app::{CUSTOMER, TestApp, addition, contents, refused, refused_fields};

fn euros(units: i64, nanos: i32) -> Option<Money> {
    Some(Money { currency_code: "EUR".into(), units, nanos })
}

async fn an_unknown_cart_is_empty(database: TestDatabase) {
    let cart = TestApp::spawn(database).await.get().await.unwrap();
    assert_eq!((cart.customer_id.as_str(), cart.etag.as_str()), (CUSTOMER, "0"));
    assert!(cart.items.is_empty() && cart.subtotal.is_none() && cart.update_time.is_none());
}

async fn a_cart_shows_titles_prices_and_their_exact_sum(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 3, "").await.unwrap();
    let cart = app.add("mug", 1, "").await.unwrap();
    let tea = CartItem {
        product_id: "tea".into(),
        title: "A tea".into(),
        unit_price: euros(4, 990_000_000),
        quantity: 3,
        previous_unit_price: None,
    };
    assert_eq!((contents(&cart).as_str(), &cart.items[0]), ("tea*3 mug*1", &tea));
    assert_eq!((cart.subtotal.clone(), cart.etag.as_str()), (euros(27, 470_000_000), "2"));
    assert!(cart.update_time.is_some());
    assert_eq!(app.get().await.unwrap(), cart);
}

async fn pieces_are_added_set_removed_and_cleared(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 3, "").await.unwrap();
    app.add("mug", 1, "").await.unwrap();
    assert_eq!(contents(&app.add("tea", 4, "").await.unwrap()), "tea*7 mug*1");
    assert_eq!(contents(&app.update("tea", 2, "").await.unwrap()), "tea*2 mug*1");
    assert_eq!(contents(&app.remove("tea", "").await.unwrap()), "mug*1");
    assert_eq!(contents(&app.add("tea", 1, "").await.unwrap()), "mug*1 tea*1");
    let cleared = app.clear("").await.unwrap();
    assert_eq!((contents(&cleared).as_str(), cleared.subtotal, cleared.etag.as_str()), ("", None, "7"));
    refused(app.update("tea", 1, "").await, Code::NotFound, "ITEM_NOT_FOUND");
}

async fn a_repeated_change_changes_nothing(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let empty = app.get().await.unwrap();
    assert_eq!(app.remove("tea", "").await.unwrap(), empty);
    assert_eq!(app.clear("").await.unwrap(), empty);
    app.add("tea", 3, "").await.unwrap();
    for etag in ["", "1"] {
        let updated = app.update("tea", 5, etag).await.unwrap();
        assert_eq!((contents(&updated).as_str(), updated.etag.as_str()), ("tea*5", "2"));
        assert_eq!(app.update("tea", 5, etag).await.unwrap(), updated);
    }
    for etag in ["", "2"] {
        let removed = app.remove("tea", etag).await.unwrap();
        assert_eq!((contents(&removed).as_str(), removed.etag.as_str()), ("", "3"));
        assert_eq!(app.remove("tea", etag).await.unwrap(), removed);
    }
}

async fn an_outdated_etag_is_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    assert_eq!(app.add("tea", 1, "0").await.unwrap().etag, "1");
    assert_eq!(app.add("tea", 1, "1").await.unwrap().etag, "2");
    refused(app.add("tea", 1, "1").await, Code::Aborted, "CART_CHANGED");
    refused(app.update("tea", 9, "1").await, Code::Aborted, "CART_CHANGED");
    refused(app.remove("tea", "1").await, Code::Aborted, "CART_CHANGED");
    refused(app.clear("9").await, Code::Aborted, "CART_CHANGED");
    assert_eq!(contents(&app.get().await.unwrap()), "tea*2");
    refused_fields(app.clear("mine").await, &["etag"]);
}

async fn quantities_and_lines_have_bounds(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 998, "").await.unwrap();
    let details = refused(app.add("tea", 2, "").await, Code::FailedPrecondition, "TOO_MANY_PIECES");
    assert_eq!(details.error_info().unwrap().metadata["held"], "998");
    for n in 0..99 {
        let product = format!("p-{n}");
        app.sell(&product, "EUR", 10_000_000_000, 0).await;
        app.add(&product, 999, "").await.unwrap();
    }
    refused(app.add("mug", 1, "").await, Code::FailedPrecondition, "CART_FULL");
    let full = app.add("tea", 1, "").await.unwrap();
    assert_eq!((full.items.len(), full.subtotal), (100, euros(989_010_000_004_985, 10_000_000)));
}

async fn malformed_fields_are_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    for quantity in [0, -1, 1_000, i32::MAX] {
        refused_fields(app.add("tea", quantity, "").await, &["quantity"]);
        refused_fields(app.update("tea", quantity, "").await, &["quantity"]);
    }
    refused_fields(app.add("Tea", 0, "x").await, &["product_id", "quantity", "etag"]);
    refused_fields(app.remove("", "").await, &["product_id"]);
    for customer_id in [String::new(), "a".repeat(129), "a\0b".into()] {
        refused_fields(app.replica(0).get_cart(GetCartRequest { customer_id }).await, &["customer_id"]);
    }
}

async fn only_products_of_one_currency_that_exist_can_be_added(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    refused(app.add("no-such", 1, "").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    app.add("tea", 1, "").await.unwrap();
    refused(app.add("no-such", 1, "").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    refused(app.add("jug", 1, "").await, Code::FailedPrecondition, "CURRENCY_MIXED");
    app.clear("").await.unwrap();
    let cart = app.add("jug", 2, "").await.unwrap();
    assert_eq!(cart.subtotal, Some(Money { currency_code: "JPY".into(), units: 6_000, nanos: 0 }));
}

async fn without_product_service_nothing_is_added(database: TestDatabase) {
    let mut app = TestApp::with_replicas(database, 2).await;
    app.add("tea", 1, "").await.unwrap();
    let other = app.replicas.pop().unwrap();
    mem::replace(&mut app.products, other).stop().await;
    let mut request = Request::new(addition("tea", 1, ""));
    request.set_timeout(Duration::from_millis(500));
    let status = app.replica(0).add_item(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
    // Clearing needs no prices; the version proves that nothing else changed.
    assert_eq!(app.clear("").await.unwrap().etag, "2");
}

on_both_databases!(
    an_unknown_cart_is_empty,
    a_cart_shows_titles_prices_and_their_exact_sum,
    pieces_are_added_set_removed_and_cleared,
    a_repeated_change_changes_nothing,
    an_outdated_etag_is_refused,
    quantities_and_lines_have_bounds,
    malformed_fields_are_refused,
    only_products_of_one_currency_that_exist_can_be_added,
    without_product_service_nothing_is_added,
);
