//! The migration of a database with data of an earlier version.

use cart_service::CartService;
use service_kit::{
    database::{Database, Migrations},
    on_both_databases,
    service::Service,
    testing::TestDatabase,
};

use crate::app::{CUSTOMER, TestApp, contents};

/// The schema of version 1: carts without prices.
const FIRST: Migrations = Migrations {
    sqlite: CartService::MIGRATIONS.sqlite.split_at(1).0,
    postgres: CartService::MIGRATIONS.postgres.split_at(1).0,
};

async fn carts_of_the_first_version_survive_the_upgrade(database: TestDatabase) {
    let first = Database::open(database.url(), &FIRST).await.unwrap();
    let mut open = first.begin().await.unwrap();
    let cart = "INSERT INTO carts (customer_id, version, update_time) VALUES ($1, 7, 1000000)";
    open.execute(cart, &[CUSTOMER.into()]).await.unwrap();
    let line = "INSERT INTO cart_lines (customer_id, product_id, quantity, currency, added) \
                VALUES ($1, 'tea', 3, 'EUR', 6)";
    open.execute(line, &[CUSTOMER.into()]).await.unwrap();
    open.commit().await.unwrap();
    first.close().await;

    let app = TestApp::spawn(database).await;
    let cart = app.get().await.unwrap();
    assert_eq!((contents(&cart).as_str(), cart.etag.as_str()), ("tea*3", "7"));
    assert_eq!(cart.items[0].previous_unit_price, None, "the first version stored no price");
    app.update("tea", 4, "7").await.unwrap();
    app.price("tea", 5).await;
    let before = app.get().await.unwrap().items[0].previous_unit_price.clone().unwrap();
    assert_eq!((before.units, before.nanos), (4, 990_000_000));
}

on_both_databases!(carts_of_the_first_version_survive_the_upgrade);
