//! A database of an earlier version is brought up to date with its data.

use payment_service::{
    PaymentService,
    domain::{Amount, Key, PaymentMethod, Terms},
    store::Store,
};
use service_kit::{
    database::{Database, Migrations},
    money::Money,
    on_both_databases,
    service::Service,
    testing::TestDatabase,
    value::CustomerId,
};

use crate::{
    app::{TestApp, new_key},
    ledger::entries,
};

/// The schema of version 1: balances were added up when somebody asked.
const FIRST: Migrations = Migrations {
    sqlite: PaymentService::MIGRATIONS.sqlite.split_at(1).0,
    postgres: PaymentService::MIGRATIONS.postgres.split_at(1).0,
};

fn terms(minor: i64, currency: &str) -> Terms {
    Terms {
        customer: CustomerId::parse("ada").unwrap(),
        amount: Amount::of(Money::new(minor, currency.parse().unwrap()).unwrap()).unwrap(),
        method: PaymentMethod::parse("pm_card_visa").unwrap(),
    }
}

/// Posts as every version does.
async fn charge(store: &Store, minor: i64, currency: &str) -> Key {
    let key = Key::parse(&new_key()).unwrap();
    store.charge(key, &terms(minor, currency), false).await.unwrap();
    key
}

async fn what_the_first_version_posted_is_in_the_balance(database: TestDatabase) {
    let first = Database::open(database.url(), &FIRST).await.unwrap();
    let old = Store::new(first.clone());
    for cents in 1..=40 {
        charge(&old, cents, "EUR").await;
    }
    let large = charge(&old, 7_000_000_123, "EUR").await;
    old.refund(large).await.unwrap();
    charge(&old, 500, "JPY").await;

    let app = TestApp::spawn(database).await;
    assert_eq!(app.balance().await, ([7_000_000_943, 7_000_000_123, 820], [41, 1]));
    assert_eq!(app.balance_in("JPY").await.unwrap().balance.unwrap().units, 500);
    assert_eq!(entries(&app.database().await).await, (86, 0));

    // A replica of the first version that goes on until it is replaced.
    let late = charge(&old, 180, "EUR").await;
    assert_eq!(app.balance().await, ([7_000_001_123, 7_000_000_123, 1_000], [42, 1]));
    app.refund(&late.to_string()).await.unwrap();
    assert_eq!(app.balance().await, ([7_000_001_123, 7_000_000_303, 820], [42, 2]));
    entries(&app.database().await).await;
    first.close().await;
}

on_both_databases!(what_the_first_version_posted_is_in_the_balance);
