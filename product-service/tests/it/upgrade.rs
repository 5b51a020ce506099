//! The migration of a database with data of an earlier version.

use mesh_proto::shop::product::v1::Product;
use product_service::ProductService;
use service_kit::{
    database::{Database, Migrations},
    on_both_databases,
    service::Service,
    testing::TestDatabase,
};

use crate::app::{TestApp, new_id, tea};

/// The schema of version 1: the catalogue alone.
const FIRST: Migrations = Migrations {
    sqlite: ProductService::MIGRATIONS.sqlite.split_at(1).0,
    postgres: ProductService::MIGRATIONS.postgres.split_at(1).0,
};

const PRODUCT: &str = "INSERT INTO products (product_id, title, description, price, currency, version) \
     VALUES ('tea', $1, $2, 499, 'EUR', 3)";

async fn products_of_the_first_version_are_kept_and_can_be_stocked(database: TestDatabase) {
    let first = Database::open(database.url(), &FIRST).await.unwrap();
    let mut open = first.begin().await.unwrap();
    open.execute(PRODUCT, &[tea().title.into(), tea().description.into()]).await.unwrap();
    open.commit().await.unwrap();
    first.close().await;

    let app = TestApp::spawn(database).await;
    assert_eq!(app.get("tea").await.unwrap(), Product { etag: "3".into(), ..tea() });
    assert_eq!(app.pieces("tea").await, (0, 0, 0));
    app.set_stock("tea", 5, "0").await.unwrap();
    app.reserve(&new_id(), &[("tea", 5)]).await.unwrap();
    assert_eq!(app.pieces("tea").await, (0, 5, 0));
}

on_both_databases!(products_of_the_first_version_are_kept_and_can_be_stocked);
