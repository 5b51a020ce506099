//! Products are created, read and listed.

use mesh_proto::{google::r#type::Money, shop::product::v1::Product};
use product_service::sample_products;
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::app::{TestApp, ids, refused, refused_field, tea};

async fn a_product_is_found_as_it_was_created_also_after_a_restart(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let created = app.create(tea()).await.unwrap();
    assert_eq!(created, Product { etag: "1".into(), ..tea() });
    assert_eq!(app.get("tea").await.unwrap(), created);
    let app = app.restart().await;
    assert_eq!(app.get("tea").await.unwrap(), created);
    refused(app.get("coffee").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    refused_field(app.get("Tea").await, "product_id");
}

async fn creating_the_same_product_again_succeeds(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let first = app.create(tea()).await.unwrap();
    assert_eq!(app.create(Product { etag: "7".into(), ..tea() }).await.unwrap(), first);
    let differing = [
        Product { title: "Other".into(), ..tea() },
        Product { description: String::new(), ..tea() },
        Product { price: Some(Money { currency_code: "USD".into(), ..tea().price.unwrap() }), ..tea() },
    ];
    for other in differing {
        refused(app.create(other).await, Code::AlreadyExists, "PRODUCT_ALREADY_EXISTS");
    }
    refused_field(app.create(Product { title: String::new(), ..tea() }).await, "product.title");
}

async fn creating_at_once_makes_one_product(database: TestDatabase) {
    let app = std::sync::Arc::new(TestApp::spawn(database).await);
    let tasks = (0..16).map(|_| {
        tokio::spawn({
            let app = app.clone();
            async move { app.create(tea()).await.unwrap() }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap().etag, "1");
    }
    assert_eq!(app.list(0, "").await.unwrap().0.len(), 1);
}

async fn a_batch_is_in_the_requested_order_or_names_missing_products(database: TestDatabase) {
    let app = TestApp::with_samples(database).await;
    let requested = ["stoneware-mug", "hand-grinder", "stoneware-mug"];
    assert_eq!(ids(&app.batch_get(&requested).await.unwrap()), requested);
    let details = refused(
        app.batch_get(&["stoneware-mug", "no-such", "nor-this"]).await,
        Code::NotFound,
        "PRODUCT_NOT_FOUND",
    );
    assert_eq!(details.error_info().unwrap().metadata["product_ids"], "no-such,nor-this");
    refused_field(app.batch_get(&[]).await, "product_ids");
    refused_field(app.batch_get(&["a"; 101]).await, "product_ids");
    refused_field(app.batch_get(&["stoneware-mug", "x'; DROP TABLE products; --"]).await, "product_ids[1]");
    // Error details are sent in a header, which must stay small enough for peers.
    let missing: Vec<_> = (0..100).map(|n| format!("{n:064}")).collect();
    let missing: Vec<_> = missing.iter().map(String::as_str).collect();
    refused(app.batch_get(&missing).await, Code::NotFound, "PRODUCT_NOT_FOUND");
}

async fn pages_follow_one_another_by_sku(database: TestDatabase) {
    let app = TestApp::with_samples(database).await;
    let (mut all, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (page, next) = app.list(3, &token).await.unwrap();
        all.extend(page);
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    let mut expected = sample_products();
    expected.sort_by(|a, b| a.product_id.cmp(&b.product_id));
    assert_eq!((ids(&all), pages), (ids(&expected), 4));
    for size in [0, 1_001, i32::MAX] {
        assert_eq!(app.list(size, "").await.unwrap().0.len(), 10);
    }
    refused_field(app.list(-1, "").await, "page_size");
    refused_field(app.list(0, "not ours").await, "page_token");
}

async fn a_page_of_the_largest_products_can_be_received(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    for n in 0..150 {
        let description = "🫖".repeat(4_000);
        app.create(Product { product_id: format!("tea-{n:03}"), description, ..tea() }).await.unwrap();
    }
    let (first, token) = app.list(1_000, "").await.unwrap();
    let (second, end) = app.list(1_000, &token).await.unwrap();
    assert_eq!((first.len() + second.len(), end.as_str()), (150, ""));
}

on_both_databases!(
    a_product_is_found_as_it_was_created_also_after_a_restart,
    creating_the_same_product_again_succeeds,
    creating_at_once_makes_one_product,
    a_batch_is_in_the_requested_order_or_names_missing_products,
    pages_follow_one_another_by_sku,
    a_page_of_the_largest_products_can_be_received,
);
