//! payment-service: charges and refunds.
//!
//! It stands in for a payment provider with its difficulties: [`faults`] makes it
//! decline, delay, fail, and charge without an answer. [`domain::ChargeState`] is the
//! state machine of a charge; the [`store`] has the charges by their idempotency keys,
//! and the ledger from which the balance is computed.

use anyhow::Context;
use clap::Args;
use mesh_proto::shop::payment::v1::payment_service_server::PaymentServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    service::{Service, ServiceBuilder, ServiceContext},
};
use tracing::warn;

pub mod domain;
mod error;
pub mod faults;
mod request;
mod service;
pub mod store;

pub use error::Error;
use faults::Faults;
pub use service::Payments;

/// The name under which it registers.
pub const NAME: &str = "payment-service";

/// The service, with its options.
#[derive(Args, Clone, Debug, Default)]
pub struct PaymentService {
    /// Injected payment faults, a list: `decline=0.1,lost=0.3,slow=0.2:2s,unavailable=0.1`, or `metadata` for
    /// those that callers request [default: none]
    #[arg(
        long,
        env = "PAYMENT_FAULTS",
        value_name = "FAULTS",
        default_value = "",
        hide_default_value = true
    )]
    pub payment_faults: String,
}

impl PaymentService {
    /// The faults to inject.
    ///
    /// # Errors
    /// When `PAYMENT_FAULTS` is invalid.
    pub fn faults(&self) -> anyhow::Result<Faults> {
        self.payment_faults.parse().context("PAYMENT_FAULTS is invalid")
    }
}

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

    fn check(&self) -> anyhow::Result<()> {
        self.faults().map(drop)
    }

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let faults = self.faults()?;
        if faults != Faults::default() {
            warn!(?faults, "PAYMENT_FAULTS is set: payment-service injects faults");
        }
        let payments = Payments::new(store::Store::new(context.database.clone()), faults);
        Ok(builder.serve(PaymentServiceServer::new(payments)))
    }
}
