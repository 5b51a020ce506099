//! user-service: who somebody is, and what they may do.

use service_kit::{
    database::Migrations,
    service::{Base, Service, Serving},
};

/// The name under which it registers.
pub const NAME: &str = "user-service";

/// The service.
#[derive(Debug)]
pub struct UserService;

impl Service for UserService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations { sqlite: &[], postgres: &[] };

    async fn build(_base: &Base, serving: Serving) -> anyhow::Result<Serving> {
        Ok(serving)
    }
}
