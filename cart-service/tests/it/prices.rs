//! Carts with changed prices.

use mesh_proto::{google::r#type::Money, shop::cart::v1::Cart};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::app::{TestApp, contents, refused};

/// The price of each line in whole euros: the current one, and the previous one if shown.
fn prices(cart: &Cart) -> Vec<(i64, Option<i64>)> {
    let units = |money: &Option<Money>| money.as_ref().map(|money| money.units);
    let shown = |item: &mesh_proto::shop::cart::v1::CartItem| {
        (units(&item.unit_price).unwrap(), units(&item.previous_unit_price))
    };
    cart.items.iter().map(shown).collect()
}

async fn a_changed_price_is_shown_with_the_previous_one(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 1, "").await.unwrap();
    let cart = app.add("mug", 1, "").await.unwrap();
    assert_eq!(prices(&cart), [(4, None), (12, None)]);
    app.price("tea", 5).await;
    let cart = app.get().await.unwrap();
    assert_eq!((prices(&cart), cart.etag.as_str()), (vec![(5, Some(4)), (12, None)], "2"));
    app.price("tea", 6).await;
    assert_eq!(prices(&app.get().await.unwrap())[0], (6, Some(4)), "still what it was to the customer");
}

async fn adding_or_setting_pieces_updates_the_stored_price(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 1, "").await.unwrap();
    app.price("tea", 5).await;
    assert_eq!(prices(&app.add("tea", 1, "").await.unwrap()), [(5, None)]);
    app.price("tea", 6).await;
    assert_eq!(prices(&app.update("tea", 7, "").await.unwrap()), [(6, None)]);
    app.price("tea", 7).await;
    let cart = app.update("tea", 7, "").await.unwrap();
    assert_eq!((prices(&cart), contents(&cart).as_str()), (vec![(7, None)], "tea*7"));
}

async fn other_products_of_a_cart_with_a_withdrawn_one_can_be_changed(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 1, "").await.unwrap();
    app.add("mug", 1, "").await.unwrap();
    app.withdraw("mug").await;
    let details = refused(app.get().await, Code::FailedPrecondition, "PRODUCT_WITHDRAWN");
    assert_eq!(details.error_info().unwrap().metadata["product_ids"], "mug");
    refused(app.update("tea", 3, "").await, Code::FailedPrecondition, "PRODUCT_WITHDRAWN");
    let cart = app.remove("mug", "").await.unwrap();
    assert_eq!((contents(&cart).as_str(), prices(&cart)), ("tea*3", vec![(4, None)]), "it was set");
    refused(app.update("mug", 3, "").await, Code::NotFound, "ITEM_NOT_FOUND");
}

on_both_databases!(
    a_changed_price_is_shown_with_the_previous_one,
    adding_or_setting_pieces_updates_the_stored_price,
    other_products_of_a_cart_with_a_withdrawn_one_can_be_changed,
);
