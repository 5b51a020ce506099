//! cart-service: the carts of customers.
//!
//! A cart stores SKUs and quantities. Titles and prices come from product-service,
//! through the mesh, each time a cart is read; a stored price only serves to report a
//! change. [`domain`] has the rules of a cart, without database and network, [`store`]
//! the database, [`catalogue`] the calls to product-service, [`Carts`] the handlers,
//! and `news` the handling of events.

use clap::Args;
use mesh_proto::shop::cart::v1::cart_service_server::CartServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    events::{Events, INBOX},
    lease::LEASES,
    service::{Service, ServiceBuilder, ServiceContext},
};

pub mod catalogue;
pub mod domain;
mod error;
mod news;
mod request;
mod service;
pub mod store;
mod view;

pub use error::Error;
use news::News;
pub use service::Carts;

/// The name under which it registers.
pub const NAME: &str = "cart-service";

/// The service, which has no options of its own.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct CartService;

impl Service for CartService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[
            Migration { name: "carts", sql: include_str!("../migrations/sqlite/0001_carts.sql") },
            Migration { name: "prices", sql: include_str!("../migrations/sqlite/0002_prices.sql") },
            INBOX.sqlite[0],
            LEASES.sqlite[0],
        ],
        postgres: &[
            Migration { name: "carts", sql: include_str!("../migrations/postgres/0001_carts.sql") },
            Migration { name: "prices", sql: include_str!("../migrations/postgres/0002_prices.sql") },
            INBOX.postgres[0],
            LEASES.postgres[0],
        ],
    };

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let carts = Carts::new(
            store::Store::new(context.database.clone()),
            catalogue::Catalogue::new(context.auth.client(context.mesh.channel(catalogue::SERVICE))),
            builder.drain(),
        );
        let builder = builder.serve(CartServiceServer::new(carts));
        Ok(Events::of(context, NAME).receive(news::SOURCES, News).add_to(builder))
    }
}
