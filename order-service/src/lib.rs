//! order-service: what each customer has bought.
//!
//! An order is made of a cart, keeps its own copy of lines and prices, and is
//! then paid and shipped, or cancelled. How, step by step, and what happens
//! when a step fails, stands in [`checkout`]. [`domain`] has what an order is
//! and how its state may change; [`store`] keeps orders, and who works on them;
//! [`saga`] takes an order from step to step, asking [`carts`], [`stock`],
//! [`payments`] and the [`carrier`]; [`acts`] are what callers ask of an order
//! that there is; [`recovery`] carries on what was left.

use mesh_proto::shop::order::v1::order_service_server::OrderServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    events::{Events, OUTBOX, Outbox},
    idempotency::{self, IDEMPOTENCY},
    lease::LEASES,
    service::{Base, Service, Serving},
};

pub mod acts;
pub mod carrier;
pub mod carts;
pub mod checkout;
pub mod domain;
mod error;
pub mod payments;
pub mod recovery;
mod request;
pub mod saga;
mod service;
pub mod stock;
pub mod store;

pub use error::Error;
pub use service::Orders;

/// The name under which it registers.
pub const NAME: &str = "order-service";

/// The service.
#[derive(Debug)]
pub struct OrderService;

impl Service for OrderService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[
            Migration { name: "orders", sql: include_str!("../migrations/sqlite/0001_orders.sql") },
            Migration { name: "sagas", sql: include_str!("../migrations/sqlite/0002_sagas.sql") },
            IDEMPOTENCY.sqlite[0],
            OUTBOX.sqlite[0],
            LEASES.sqlite[0],
            IDEMPOTENCY.sqlite[1],
            IDEMPOTENCY.sqlite[2],
            Migration {
                name: "ordered carts",
                sql: include_str!("../migrations/sqlite/0003_ordered_carts.sql"),
            },
        ],
        postgres: &[
            Migration { name: "orders", sql: include_str!("../migrations/postgres/0001_orders.sql") },
            Migration { name: "sagas", sql: include_str!("../migrations/postgres/0002_sagas.sql") },
            IDEMPOTENCY.postgres[0],
            OUTBOX.postgres[0],
            LEASES.postgres[0],
            IDEMPOTENCY.postgres[1],
            Migration {
                name: "ordered carts",
                sql: include_str!("../migrations/postgres/0003_ordered_carts.sql"),
            },
        ],
    };

    async fn build(base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        let outbox = Outbox::of(base, NAME, store::SUBSCRIBERS);
        let sagas = sagas(base, outbox)?;
        let orders = Orders::new(sagas.clone(), serving.drain());
        let serving = serving
            .serve(OrderServiceServer::new(orders))
            .work(recovery::recover(sagas))
            .work(idempotency::clean(base.database.clone()));
        Ok(Events::of(base, NAME).send(outbox).add_to(serving))
    }
}

/// The sagas of the orders in the database of `base`, which tell `outbox`.
///
/// # Errors
/// When `CARRIER_FAULTS` cannot be read; says how to mend it.
pub fn sagas(base: &Base, outbox: Outbox) -> anyhow::Result<saga::Sagas> {
    let faults = base.carrier_faults.parse().map_err(|why: String| {
        anyhow::anyhow!("CARRIER_FAULTS: {why}; such as refuse=0.1,unavailable=0.1,lost=0.1,slow=0.2:2s")
    })?;
    let to = |service| base.auth.client(base.mesh.channel(service));
    let neighbours = saga::Neighbours {
        carts: carts::Carts::new(to(carts::SERVICE)),
        stock: stock::Stock::new(to(stock::SERVICE)),
        payments: payments::Payments::new(to(payments::SERVICE)),
        carrier: carrier::Carrier::new(faults),
    };
    Ok(saga::Sagas::new(store::Store::new(base.database.clone(), outbox), neighbours))
}
