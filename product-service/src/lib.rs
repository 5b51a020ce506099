//! product-service: the catalogue, what the shop sells and at which price.
//!
//! A handler in [`Products`] translates a request into the values of
//! [`domain`], asks the [`store`], and translates back; [`Error`] says what can
//! go wrong and becomes a status in one place.

use std::future::Future;

use mesh_proto::shop::product::v1::product_service_server::ProductServiceServer;
use registry_client::Mesh;
use service_kit::{
    config::ServiceConfig,
    database::{Database, Migration, Migrations},
    run::{Ready, ready},
};
use tokio::net::TcpListener;

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

/// Its schema.
pub const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration { name: "products", sql: include_str!("../migrations/sqlite/0001_products.sql") }],
    postgres: &[Migration {
        name: "products",
        sql: include_str!("../migrations/postgres/0001_products.sql"),
    }],
};

/// Runs it as its settings say until `shutdown` completes.
///
/// # Errors
/// When a setting, the address or the database cannot be used; says how to
/// mend it.
///
/// # Cancel safety
/// As [`serve`].
pub async fn run(config: ServiceConfig, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let Ready { mesh, database, listener } = ready(NAME, &config, &MIGRATIONS).await?;
    serve(mesh, database, listener, shutdown).await
}

/// Serves on `listener` until `shutdown` completes; then closes the database.
///
/// # Errors
/// As [`Server::run`](registry_client::server::Server::run).
///
/// # Cancel safety
/// Dropping it closes every connection; what is committed stays.
pub async fn serve(
    mesh: Mesh,
    database: Database,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let service = ProductServiceServer::new(Products::new(store::Store::new(database.clone())));
    let server = mesh.serve(NAME).version(env!("CARGO_PKG_VERSION")).add_service(service);
    server.run(listener, shutdown).await?;
    database.close().await;
    Ok(())
}
