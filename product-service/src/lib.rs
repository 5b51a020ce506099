//! product-service: the catalogue, what the shop sells and at which price.
//!
//! A handler in [`Products`] translates a request into the values of
//! [`domain`], asks the [`store`], and translates back; [`Error`] says what can
//! go wrong and becomes a status in one place.

use mesh_proto::shop::product::v1::product_service_server::ProductServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    service::{Base, Service, Serving},
};

pub mod domain;
mod error;
mod samples;
mod service;
pub mod store;

pub use error::Error;
pub use samples::sample_products;
pub use service::Products;

/// The name under which it registers.
pub const NAME: &str = "product-service";

/// The service.
#[derive(Debug)]
pub struct ProductService;

impl Service for ProductService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[Migration {
            name: "products",
            sql: include_str!("../migrations/sqlite/0001_products.sql"),
        }],
        postgres: &[Migration {
            name: "products",
            sql: include_str!("../migrations/postgres/0001_products.sql"),
        }],
    };

    async fn build(base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        let products = Products::new(store::Store::new(base.database.clone()));
        Ok(serving.serve(ProductServiceServer::new(products)))
    }
}
