//! payment-service: what customers were charged, and what they got back.

use service_kit::{
    database::Migrations,
    service::{Base, Service, Serving},
};

/// The name under which it registers.
pub const NAME: &str = "payment-service";

/// The service.
#[derive(Debug)]
pub struct PaymentService;

impl Service for PaymentService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations { sqlite: &[], postgres: &[] };

    async fn build(_base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        Ok(serving)
    }
}
