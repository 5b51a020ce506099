//! order-service: what each customer has bought.
//!
//! An order is made of a cart, which order-service reads from cart-service
//! through the mesh, and keeps its own copy of lines and prices. How, step by
//! step, and what happens when a step fails, stands in [`checkout`]. [`domain`]
//! has what an order is and how its state may change; [`store`] keeps orders.

use mesh_proto::shop::order::v1::order_service_server::OrderServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    service::{Base, Service, Serving},
};

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

/// The service.
#[derive(Debug)]
pub struct OrderService;

impl Service for OrderService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[Migration { name: "orders", sql: include_str!("../migrations/sqlite/0001_orders.sql") }],
        postgres: &[Migration {
            name: "orders",
            sql: include_str!("../migrations/postgres/0001_orders.sql"),
        }],
    };

    async fn build(base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        let store = store::Store::new(base.database.clone());
        let carts = carts::Carts::new(base.auth.client(base.mesh.channel(carts::SERVICE)));
        let orders = Orders::new(store, carts, serving.drain());
        Ok(serving.serve(OrderServiceServer::new(orders)))
    }
}
