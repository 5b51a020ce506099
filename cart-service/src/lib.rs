//! cart-service: what each customer means to buy.
//!
//! A cart keeps SKUs and quantities. Titles and prices come from
//! product-service, through the mesh, each time a cart is shown. The rules of a
//! cart are in [`domain`], which knows no database and no network; [`store`]
//! keeps carts; [`catalogue`] asks product-service; a handler in [`Carts`]
//! translates, asks these, and translates back.

use mesh_proto::shop::cart::v1::cart_service_server::CartServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    service::{Base, Service, Serving},
};

pub mod catalogue;
pub mod domain;
mod error;
mod request;
mod service;
pub mod store;
mod view;

pub use error::Error;
pub use service::Carts;

/// The name under which it registers.
pub const NAME: &str = "cart-service";

/// The service.
#[derive(Debug)]
pub struct CartService;

impl Service for CartService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[Migration { name: "carts", sql: include_str!("../migrations/sqlite/0001_carts.sql") }],
        postgres: &[Migration { name: "carts", sql: include_str!("../migrations/postgres/0001_carts.sql") }],
    };

    async fn build(base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        let carts = Carts::new(
            store::Store::new(base.database.clone()),
            catalogue::Catalogue::new(base.auth.client(base.mesh.channel(catalogue::SERVICE))),
            serving.drain(),
        );
        Ok(serving.serve(CartServiceServer::new(carts)))
    }
}
