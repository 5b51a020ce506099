//! cart-service: what each customer means to buy.
//!
//! A cart keeps SKUs and quantities. Titles and prices come from
//! product-service, through the mesh, each time a cart is shown; what is kept of
//! a price only tells that it has changed. The rules of a cart are in [`domain`],
//! which knows no database and no network; [`store`] keeps carts; [`catalogue`]
//! asks product-service; a handler in [`Carts`] translates, asks these, and
//! translates back. What carts hear by events is in `news`.

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
