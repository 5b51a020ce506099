//! product-service: the catalogue of the shop with its prices, and the stock with
//! its reservations.
//!
//! A handler in [`Products`] parses a request into the values of [`domain`], calls
//! the [`store`], and translates the result. [`Error`] becomes a status in one
//! place. [`domain::ReservationState`] is the state machine of a reservation;
//! [`sweep`] ends expired leases and deletes old reservations.

use clap::Args;
use mesh_proto::shop::product::v1::product_service_server::ProductServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    events::{self, Events, Outbox},
    lease,
    service::{Service, ServiceBuilder, ServiceContext},
};

pub mod domain;
mod error;
mod request;
mod samples;
mod service;
pub mod store;
pub mod sweep;

pub use error::Error;
pub use samples::{SAMPLE_STOCK, sample_products};
pub use service::Products;

/// The name under which it registers.
pub const NAME: &str = "product-service";

/// The receivers of changes of the catalogue: carts show its prices.
pub const SUBSCRIBERS: &[&str] = &["cart-service"];

/// The service, which has no options of its own.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ProductService;

impl Service for ProductService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[
            Migration { name: "products", sql: include_str!("../migrations/sqlite/0001_products.sql") },
            Migration { name: "stock", sql: include_str!("../migrations/sqlite/0002_stock.sql") },
            events::OUTBOX.sqlite[0],
            lease::LEASES.sqlite[0],
            Migration {
                name: "reservation ends",
                sql: include_str!("../migrations/sqlite/0003_reservation_ends.sql"),
            },
        ],
        postgres: &[
            Migration { name: "products", sql: include_str!("../migrations/postgres/0001_products.sql") },
            Migration { name: "stock", sql: include_str!("../migrations/postgres/0002_stock.sql") },
            events::OUTBOX.postgres[0],
            lease::LEASES.postgres[0],
            Migration {
                name: "reservation ends",
                sql: include_str!("../migrations/postgres/0003_reservation_ends.sql"),
            },
        ],
    };

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let outbox = Outbox::of(context, NAME, SUBSCRIBERS);
        let store = store::Store::new(context.database.clone(), outbox);
        let products = Products::new(store.clone());
        let builder = builder
            .serve(ProductServiceServer::new(products))
            .background_task(sweep::end_leases(store.clone()))
            .background_task(sweep::delete_old_reservations(store));
        Ok(Events::of(context, NAME).send(outbox).add_to(builder))
    }
}
