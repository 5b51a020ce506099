//! The migration of a database with data of an earlier version.

use payment_service::PaymentService;
use service_kit::{
    database::{Database, Migrations},
    on_both_databases,
    service::Service,
    testing::TestDatabase,
};

use crate::{
    app::{TestApp, new_key},
    ledger::entries,
};

/// The schema of version 1, which computed balances on every read.
const FIRST: Migrations = Migrations {
    sqlite: PaymentService::MIGRATIONS.sqlite.split_at(1).0,
    postgres: PaymentService::MIGRATIONS.postgres.split_at(1).0,
};

const CHARGE: &str = "INSERT INTO charges (charge_id, idempotency_key, state, customer_id, amount, currency, \
     payment_method, create_time, update_time) \
     VALUES ($1, $1, 'succeeded', 'ada', $2, $3, 'pm_card_visa', 7, 7)";
const REFUND: &str =
    "UPDATE charges SET state = 'refunded' WHERE charge_id = $1 AND amount = $2 AND currency = $3";
const POST_CHARGE: &str = "INSERT INTO ledger (charge_id, kind, account, amount, currency, create_time) \
     VALUES ($1, 'charge', 'shop', $2, $3, 7), ($1, 'charge', 'customers', -$2, $3, 7)";
const POST_REFUND: &str = "INSERT INTO ledger (charge_id, kind, account, amount, currency, create_time) \
     VALUES ($1, 'refund', 'shop', -$2, $3, 7), ($1, 'refund', 'customers', $2, $3, 7)";

/// Writes a charge as the first version does.
async fn write(database: &Database, statements: [&'static str; 2], key: &str, minor: i64, currency: &str) {
    let mut open = database.begin().await.unwrap();
    for statement in statements {
        open.execute(statement, &[key.into(), minor.into(), currency.into()]).await.unwrap();
    }
    open.commit().await.unwrap();
}

async fn charge(database: &Database, minor: i64, currency: &str) -> String {
    let key = new_key();
    write(database, [CHARGE, POST_CHARGE], &key, minor, currency).await;
    key
}

async fn the_balance_includes_postings_of_the_first_version(database: TestDatabase) {
    let first = Database::open(database.url(), &FIRST).await.unwrap();
    for cents in 1..=40 {
        charge(&first, cents, "EUR").await;
    }
    let large = charge(&first, 7_000_000_123, "EUR").await;
    write(&first, [REFUND, POST_REFUND], &large, 7_000_000_123, "EUR").await;
    charge(&first, 500, "JPY").await;

    let app = TestApp::spawn(database).await;
    assert_eq!(app.balance().await, ([7_000_000_943, 7_000_000_123, 820], [41, 1]));
    assert_eq!(app.balance_in("JPY").await.unwrap().balance.unwrap().units, 500);
    assert_eq!(entries(&app.database().await).await, (86, 0));

    // A replica of the first version still runs until it is replaced.
    let late = charge(&first, 180, "EUR").await;
    assert_eq!(app.balance().await, ([7_000_001_123, 7_000_000_123, 1_000], [42, 1]));
    app.refund(&late).await.unwrap();
    assert_eq!(app.balance().await, ([7_000_001_123, 7_000_000_303, 820], [42, 2]));
    entries(&app.database().await).await;
    first.close().await;
}

on_both_databases!(the_balance_includes_postings_of_the_first_version);
