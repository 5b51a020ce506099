//! order-service: what each customer has bought.
//!
//! An order is made of a cart, which order-service reads from cart-service
//! through the mesh, and keeps its own copy of lines and prices. How, step by
//! step, and what happens when a step fails, stands in [`checkout`]. [`domain`]
//! has what an order is and how its state may change; [`store`] keeps orders.

use std::future::Future;

use mesh_proto::shop::order::v1::order_service_server::OrderServiceServer;
use registry_client::Mesh;
use service_kit::{
    config::ServiceConfig,
    database::{Database, Migration, Migrations},
    run::{Ready, ready},
};
use tokio::net::TcpListener;

pub mod carts;
pub mod checkout;
pub mod domain;
mod error;
mod request;
mod service;
pub mod store;

pub use error::Error;
pub use service::Orders;

/// The name under which it registers.
pub const NAME: &str = "order-service";

/// Its schema.
pub const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration { name: "orders", sql: include_str!("../migrations/sqlite/0001_orders.sql") }],
    postgres: &[Migration { name: "orders", sql: include_str!("../migrations/postgres/0001_orders.sql") }],
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

/// Serves on `listener`, finding cart-service by `mesh`, until `shutdown`
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
    let store = store::Store::new(database.clone());
    let carts = carts::Carts::new(mesh.channel(carts::SERVICE));
    let orders = Orders::new(store, carts, server.drain_signal());
    server.add_service(OrderServiceServer::new(orders)).run(listener, shutdown).await?;
    database.close().await;
    Ok(())
}
