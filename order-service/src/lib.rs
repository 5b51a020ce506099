//! order-service: the orders of customers.
//!
//! An order is created from a cart, with its own copy of lines and prices, and is
//! then paid and shipped, or cancelled. [`checkout`] describes the steps, and the
//! handling of their failures. [`domain`] has the order and its states; [`store`]
//! stores orders and their claims; [`saga`] takes the steps, with the clients
//! [`carts`], [`stock`], [`payments`] and the [`carrier`]; [`commands`] act on an
//! existing order; [`recovery`] resumes abandoned orders.

use clap::Args;
use mesh_proto::shop::order::v1::order_service_server::OrderServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    events::{Events, OUTBOX, Outbox},
    idempotency::{self, IDEMPOTENCY},
    lease::LEASES,
    service::{Service, ServiceBuilder, ServiceContext},
};

pub mod carrier;
pub mod carts;
pub mod checkout;
pub mod commands;
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

/// The service, with its options.
#[derive(Args, Clone, Debug, Default)]
pub struct OrderService {
    /// Injected faults of the carrier, a list of `NAME=SHARE`: `refuse=0.1,unavailable=0.1,lost=0.1,slow=0.2:2s`
    /// [default: none]
    #[arg(long, env = "CARRIER_FAULTS", value_name = "LIST", default_value = "", hide_default_value = true)]
    pub carrier_faults: String,
}

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

    fn check(&self) -> anyhow::Result<()> {
        self.faults().map(drop)
    }

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let outbox = Outbox::of(context, NAME, store::SUBSCRIBERS);
        let sagas = self.sagas(context, outbox)?;
        let orders = Orders::new(sagas.clone(), builder.drain());
        let builder = builder
            .serve(OrderServiceServer::new(orders))
            .background_task(recovery::recover(sagas))
            .background_task(idempotency::run_cleanup(context.database.clone()));
        Ok(Events::of(context, NAME).send(outbox).add_to(builder))
    }
}

impl OrderService {
    fn faults(&self) -> anyhow::Result<carrier::Faults> {
        self.carrier_faults.parse().map_err(|why: String| {
            anyhow::anyhow!(
                "CARRIER_FAULTS is invalid: {why}; write a list such as refuse=0.1,unavailable=0.1,lost=0.1,slow=0.2:2s"
            )
        })
    }

    /// The sagas of the orders in the database of `context`, with their events in
    /// `outbox`.
    ///
    /// # Errors
    /// When `CARRIER_FAULTS` is invalid.
    pub fn sagas(&self, context: &ServiceContext, outbox: Outbox) -> anyhow::Result<saga::Sagas> {
        let client = |service| context.auth.client(context.mesh.channel(service));
        let dependencies = saga::Dependencies {
            carts: carts::Carts::new(client(carts::SERVICE)),
            stock: stock::Stock::new(client(stock::SERVICE)),
            payments: payments::Payments::new(client(payments::SERVICE)),
            carrier: carrier::Carrier::new(self.faults()?),
        };
        Ok(saga::Sagas::new(store::Store::new(context.database.clone(), outbox), dependencies))
    }
}
