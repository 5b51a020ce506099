//! Stock is read and set.

use mesh_proto::shop::product::v1::Stock;
use product_service::{SAMPLE_STOCK, sample_products};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::app::{TestApp, new_id, refused, refused_field, tea};

async fn a_product_has_no_pieces_until_they_are_set(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.create(tea()).await.unwrap();
    let none = Stock { product_id: "tea".into(), etag: "0".into(), ..Stock::default() };
    assert_eq!(app.stock("tea").await.unwrap(), none);
    let set = app.set_stock("tea", 1_000_000_000, "0").await.unwrap();
    assert_eq!(set, Stock { available: 1_000_000_000, etag: "1".into(), ..none });
    assert_eq!(app.stock("tea").await.unwrap(), set);
    refused(app.set_stock("tea", 5, "0").await, Code::Aborted, "STOCK_CHANGED");
    refused(app.set_stock("mug", 5, "").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    refused(app.stock("mug").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    refused_field(app.set_stock("tea", -1, "").await, "available");
    refused_field(app.set_stock("tea", 1_000_000_001, "").await, "available");
    refused_field(app.set_stock("Tea", 1, "").await, "product_id");
    refused_field(app.set_stock("tea", 1, "none").await, "etag");
    refused_field(app.stock("").await, "product_id");
}

async fn setting_keeps_reserved_and_sold_pieces(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.stocked("tea", 10).await;
    let [held, sold] = [new_id(), new_id()];
    app.reserve(&held, &[("tea", 2)]).await.unwrap();
    app.reserve(&sold, &[("tea", 3)]).await.unwrap();
    app.commit(&sold).await.unwrap();
    let set = app.set_stock("tea", 0, "1").await.unwrap();
    assert_eq!((set.available, set.reserved, set.sold, set.etag.as_str()), (0, 2, 3, "2"));
}

async fn a_repeated_setting_sets_once(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.stocked("tea", 10).await;
    app.set_stock("tea", 20, "1").await.unwrap();
    app.reserve(&new_id(), &[("tea", 2)]).await.unwrap();
    // Not 20 again: 2 of them were reserved since.
    let again = app.set_stock("tea", 20, "1").await.unwrap();
    assert_eq!((again.available, again.etag.as_str()), (18, "2"));
    refused(app.set_stock("tea", 21, "1").await, Code::Aborted, "STOCK_CHANGED");
}

async fn samples_can_be_stocked_at_every_start(database: TestDatabase) {
    let app = TestApp::with_samples(database).await;
    let sku = &sample_products()[0].product_id;
    app.set_stock(sku, SAMPLE_STOCK, "0").await.unwrap();
    app.reserve(&new_id(), &[(sku, 2)]).await.unwrap();
    let app = app.restart().await;
    // At its first sending or never again.
    let again = app.set_stock(sku, SAMPLE_STOCK, "0").await.unwrap();
    assert_eq!(again.available, SAMPLE_STOCK - 2);
    app.set_stock(sku, 7, "").await.unwrap();
    refused(app.set_stock(sku, SAMPLE_STOCK, "0").await, Code::Aborted, "STOCK_CHANGED");
}

on_both_databases!(
    a_product_has_no_pieces_until_they_are_set,
    setting_keeps_reserved_and_sold_pieces,
    a_repeated_setting_sets_once,
    samples_can_be_stocked_at_every_start,
);
