//! The cost of stored orders for new ones: a shop that begins beside
//! one with many orders.

use std::{fs, io::Write, time::Duration};

use order_service::OrderService;
use service_kit::{
    database::{Database, DatabaseUrl, Sql, Value},
    service::Service,
    testing::TestDatabase,
    timestamp::Timestamp,
};

use crate::{Round, Shop, median};

/// Few enough that an order waits for the database and not for other orders.
const CALLERS: usize = 8;
/// The number of orders that one transaction stores.
const BATCH: i64 = 10_000;
/// The remaining time of the responses of those orders, so that none is
/// deleted meanwhile.
const REMAINING_RETENTION: Duration = Duration::from_hours(12);

/// A statement for the numbers `i` from `$1` to `$2`, each with the `id` of an
/// order of its own, sorted by time as they are.
macro_rules! numbered {
    ($insert:literal, $($select:literal)|+) => {
        Sql::each(
            concat!(
                $insert,
                " WITH RECURSIVE n(i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM n WHERE i < $2), \
                 o AS (SELECT i, printf('%08x-%04x-7000-8000-%012x', (1700000000000 + i * 1000) >> 16, \
                 (1700000000000 + i * 1000) & 65535, i) AS id FROM n) ",
                numbered!(@join "lower(hex(randomblob(16)))" "randomblob(300)" $($select)|+)
            ),
            concat!(
                $insert,
                " WITH o AS (SELECT i, lpad(to_hex((1700000000000 + i * 1000) >> 16), 8, '0') || '-' || \
                 lpad(to_hex((1700000000000 + i * 1000) & 65535), 4, '0') || '-7000-8000-' || \
                 lpad(to_hex(i), 12, '0') AS id FROM generate_series($1::bigint, $2::bigint) AS i) ",
                numbered!(@join "gen_random_uuid()::text" "decode(repeat('5a', 300), 'hex')" $($select)|+)
            ),
        )
    };
    (@join $random:literal $bytes:literal $before:literal) => { $before };
    (@join $random:literal $bytes:literal $before:literal | $between:literal | $after:literal) => {
        concat!($before, $random, $between, $bytes, $after)
    };
}

const ORDERS: Sql = numbered!(
    "INSERT INTO orders \
     (order_id, customer_id, cart_etag, state, total, currency, create_time, update_time, version)",
    "SELECT id, 'customer-' || (i % 50000), '1', 'completed', 2997, 'EUR', 1700000000000000 + i * 1000000, \
     1700000000000000 + i * 1000000, 9 FROM o"
);

const LINES: Sql = numbered!(
    "INSERT INTO order_lines (order_id, position, product_id, title, unit_price, quantity)",
    "SELECT id, p, 'sku-' || (i % 1000), 'Something that is sold', 999, p + 1 \
     FROM o, (SELECT 0 AS p UNION ALL SELECT 1) lines"
);

const ANSWERS: Sql = numbered!(
    "INSERT INTO idempotency (caller, method, request_id, body, reference, code, expire_time, answer)",
    "SELECT 'customer-' || (i % 50000), 'shop.order.v1.OrderService/CreateOrder', "
        | ", $3, id, 0, $4 + i, "
        | " FROM o"
);

/// Prints both, on both databases.
pub(crate) async fn compare(count: i64, rounds: usize, time: Duration) {
    let mut out = std::io::stdout();
    writeln!(out, "| database | orders before | MiB | orders/s | p50 ms | p99 ms | p99 ratio |").unwrap();
    writeln!(out, "|---|---|---|---|---|---|---|").unwrap();
    for name in ["SQLite", "PostgreSQL"] {
        let database = || async {
            if name == "SQLite" { TestDatabase::sqlite() } else { TestDatabase::durable_postgres().await }
        };
        let (empty, full) = (database().await, database().await);
        let size = store(&full, count).await;
        let (empty, full) = (Shop::open(empty, None).await, Shop::open(full, None).await);
        // The first order is not measured.
        for shop in [&empty, &full] {
            shop.round(CALLERS, time).await;
        }
        let (mut of_empty, mut of_full) = (Vec::new(), Vec::new());
        for number in 0..rounds {
            // The order changes, so that none always comes after the other.
            if number % 2 == 0 {
                of_empty.push(empty.round(CALLERS, time).await);
                of_full.push(full.round(CALLERS, time).await);
            } else {
                of_full.push(full.round(CALLERS, time).await);
                of_empty.push(empty.round(CALLERS, time).await);
            }
        }
        let ratios = of_full.iter().zip(&of_empty).map(|(full, empty)| full.p99 / empty.p99);
        let ratio = median(ratios.collect());
        let mut print_row = |before: i64, size: u64, of: &[Round], ratio: f64| {
            let median = |of_round: fn(&Round) -> f64| median(of.iter().map(of_round).collect());
            writeln!(
                out,
                "| {name} | {before} | {size} | {:.0} | {:.2} | {:.2} | {ratio:.2} |",
                median(|round| round.per_second),
                median(|round| round.p50),
                median(|round| round.p99),
            )
            .unwrap();
        };
        print_row(0, 0, &of_empty, 1.0);
        print_row(count, size >> 20, &of_full, ratio);
    }
}

/// Stores so many orders as if they had been completed, with the answers to
/// their requests; the bytes that they take.
async fn store(database: &TestDatabase, count: i64) -> u64 {
    let url = database.url();
    let database = Database::open(url, &OrderService::MIGRATIONS).await.unwrap();
    let kept = Timestamp::now().micros() + i64::try_from(REMAINING_RETENTION.as_micros()).unwrap();
    for first in (1..=count).step_by(usize::try_from(BATCH).unwrap()) {
        let (from, to) = (Value::from(first), Value::from((first + BATCH - 1).min(count)));
        let range = [from.clone(), to.clone()];
        let answers = [from, to, vec![0_u8; 32].into(), kept.into()];
        let mut open = database.begin().await.unwrap();
        open.execute(ORDERS, &range).await.unwrap();
        open.execute(LINES, &range).await.unwrap();
        open.execute(ANSWERS, &answers).await.unwrap();
        open.commit().await.unwrap();
    }
    let size = match url {
        DatabaseUrl::Sqlite(file) => {
            database.close().await;
            fs::metadata(file).unwrap().len()
        }
        DatabaseUrl::Postgres(_) => {
            let mut open = database.begin().await.unwrap();
            open.execute("ANALYZE", &[]).await.unwrap();
            open.commit().await.unwrap();
            let row = database.row("SELECT pg_database_size(current_database()) AS size", &[]).await;
            let size: i64 = row.unwrap().unwrap().get("size").unwrap();
            size.unsigned_abs()
        }
    };
    database.close().await;
    size
}
