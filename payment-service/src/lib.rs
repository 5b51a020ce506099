//! payment-service: what customers were charged, and what they got back.
//!
//! It stands in for a payment provider, with what makes one hard to use:
//! [`faults`] lets it decline, be slow, be away, and charge without an answer.
//! [`domain::State`] says how a charge may change; the [`store`] keeps charges
//! by their keys, and beside them the ledger that the balance is read from.

use anyhow::Context;
use mesh_proto::shop::payment::v1::payment_service_server::PaymentServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    service::{Base, Service, Serving},
};
use tracing::warn;

pub mod domain;
mod error;
pub mod faults;
mod request;
mod service;
pub mod store;

pub use error::Error;
pub use service::Payments;

/// The name under which it registers.
pub const NAME: &str = "payment-service";

/// The service.
#[derive(Debug)]
pub struct PaymentService;

impl Service for PaymentService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[
            Migration { name: "payments", sql: include_str!("../migrations/sqlite/0001_payments.sql") },
            Migration { name: "balances", sql: include_str!("../migrations/sqlite/0002_balances.sql") },
            Migration { name: "fencing", sql: include_str!("../migrations/sqlite/0003_fencing.sql") },
        ],
        postgres: &[
            Migration { name: "payments", sql: include_str!("../migrations/postgres/0001_payments.sql") },
            Migration { name: "balances", sql: include_str!("../migrations/postgres/0002_balances.sql") },
            Migration { name: "fencing", sql: include_str!("../migrations/postgres/0003_fencing.sql") },
        ],
    };

    async fn build(base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        let faults: faults::Faults = base.payment_faults.parse().context("PAYMENT_FAULTS cannot be read")?;
        if faults != faults::Faults::default() {
            warn!(?faults, "payments fail on purpose: PAYMENT_FAULTS is set");
        }
        let payments = Payments::new(store::Store::new(base.database.clone()), faults);
        Ok(serving.serve(PaymentServiceServer::new(payments)))
    }
}
