//! The unit of work: an order, its lines, an event, and a change of the order.

use std::time::Duration;

use service_kit::{
    database::{Database, DatabaseUrl, Migration, Migrations, Transaction},
    events,
    testing::TestDatabase,
};
use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use uuid::Uuid;

use crate::Fallible;

const SCHEMA: Migration = Migration {
    name: "orders",
    sql: "CREATE TABLE orders (order_id TEXT NOT NULL PRIMARY KEY, customer_id TEXT NOT NULL, \
          request_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, total BIGINT NOT NULL, \
          version BIGINT NOT NULL); \
          CREATE INDEX orders_by_customer ON orders (customer_id, order_id); \
          CREATE TABLE order_lines (order_id TEXT NOT NULL REFERENCES orders (order_id), \
          position BIGINT NOT NULL, product_id TEXT NOT NULL, quantity BIGINT NOT NULL, \
          PRIMARY KEY (order_id, position))",
};
const MIGRATIONS: Migrations = Migrations {
    sqlite: &[SCHEMA, events::OUTBOX.sqlite[0]],
    postgres: &[SCHEMA, events::OUTBOX.postgres[0]],
};

const ORDER: &str = "INSERT INTO orders (order_id, customer_id, request_id, state, total, version) \
     VALUES ($1, $2, $3, 'pending', $4, 1) ON CONFLICT (request_id) DO NOTHING";
const LINES: &str = "INSERT INTO order_lines (order_id, position, product_id, quantity) \
     VALUES ($1, 0, 'teapot', 1), ($1, 1, 'mug', 4)";
const EVENT: &str = "INSERT INTO outbox (subscriber, event_id, aggregate_id, sequence, event, create_time) \
     VALUES ('cart-service', $1, $2, 1, $3, $4)";
const CONFIRM: &str = "UPDATE orders SET state = 'confirmed', version = version + 1 WHERE order_id = $1";
/// As long as an event of a small order.
const EVENT_BYTES: usize = 200;

/// The same in sqlx's own words, for either database.
macro_rules! plain {
    ($begin:expr, $order:ident, $request:ident, $event:ident) => {
        async {
            let mut open = $begin.await?;
            let order = sqlx::query(ORDER).bind(&$order).bind("ann").bind(&$request).bind(4_200_i64);
            order.execute(&mut *open).await?;
            sqlx::query(LINES).bind(&$order).execute(&mut *open).await?;
            let event =
                sqlx::query(EVENT).bind(&$event).bind(&$order).bind(vec![7_u8; EVENT_BYTES]).bind(1_i64);
            event.execute(&mut *open).await?;
            sqlx::query(CONFIRM).bind(&$order).execute(&mut *open).await?;
            open.commit().await
        }
        .await
    };
}

/// A way to write.
pub(crate) enum Variant {
    Ours(Database),
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Variant {
    pub(crate) async fn ours(database: &TestDatabase) -> Fallible<Self> {
        Ok(Self::Ours(Database::open(database.url(), &MIGRATIONS).await?))
    }

    /// The same without this crate; on a database that
    /// [`ours`](Self::ours) has made.
    pub(crate) async fn pool(database: &TestDatabase) -> Fallible<Self> {
        Ok(match database.url() {
            DatabaseUrl::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(Duration::from_secs(5));
                let pool = SqlitePoolOptions::new().max_connections(8).connect_with(options);
                Self::Sqlite(pool.await?)
            }
            DatabaseUrl::Postgres(options) => {
                let pool = PgPoolOptions::new().max_connections(10).connect_with((**options).clone());
                Self::Postgres(pool.await?)
            }
        })
    }

    /// One unit, durable when this returns.
    pub(crate) async fn write(&self) -> Fallible<()> {
        let [order, request, event] = std::array::from_fn(|_| Uuid::now_v7().to_string());
        match self {
            Self::Ours(database) => {
                let mut unit = database.unit();
                loop {
                    let mut open = unit.begin().await?;
                    let done = ours(&mut open, &order, &request, &event).await;
                    if let Some(done) = unit.end(open, done).await {
                        return Ok(done?);
                    }
                }
            }
            Self::Sqlite(pool) => loop {
                // The file may be busy for longer than SQLite waits.
                match plain!(pool.begin_with("BEGIN IMMEDIATE"), order, request, event) {
                    Err::<(), sqlx::Error>(why) if why.to_string().contains("locked") => {}
                    done => return Ok(done?),
                }
            },
            Self::Postgres(pool) => {
                let done: Result<(), sqlx::Error> = plain!(pool.begin(), order, request, event);
                Ok(done?)
            }
        }
    }
}

async fn ours(
    open: &mut Transaction,
    order: &str,
    request: &str,
    event: &str,
) -> Result<(), service_kit::database::Error> {
    open.require(ORDER, &[order.into(), "ann".into(), request.into(), 4_200_i64.into()]).await?;
    open.post(LINES, &[order.into()]).await?;
    let bytes = vec![7_u8; EVENT_BYTES];
    open.post(EVENT, &[event.into(), order.into(), bytes.into(), 1_i64.into()]).await?;
    open.require(CONFIRM, &[order.into()]).await
}
