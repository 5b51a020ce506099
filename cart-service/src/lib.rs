//! cart-service: what each customer means to buy.
//!
//! A cart keeps SKUs and quantities. Titles and prices come from
//! product-service, through the mesh, each time a cart is shown. The rules of a
//! cart are in [`domain`], which knows no database and no network; [`store`]
//! keeps carts; [`catalogue`] asks product-service; a handler in [`Carts`]
//! translates, asks these, and translates back.

use std::future::Future;

use mesh_proto::shop::cart::v1::cart_service_server::CartServiceServer;
use registry_client::Mesh;
use service_kit::{
    config::ServiceConfig,
    database::{Database, Migration, Migrations},
    run::{Ready, ready},
};
use tokio::net::TcpListener;

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

/// Its schema.
pub const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration { name: "carts", sql: include_str!("../migrations/sqlite/0001_carts.sql") }],
    postgres: &[Migration { name: "carts", sql: include_str!("../migrations/postgres/0001_carts.sql") }],
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

/// Serves on `listener`, finding product-service by `mesh`, until `shutdown`
/// completes; then closes the database.
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
    let server = mesh.serve(NAME).version(env!("CARGO_PKG_VERSION"));
    let carts = Carts::new(
        store::Store::new(database.clone()),
        catalogue::Catalogue::new(mesh.channel(catalogue::SERVICE)),
        server.drain_signal(),
    );
    server.add_service(CartServiceServer::new(carts)).run(listener, shutdown).await?;
    database.close().await;
    Ok(())
}
