//! order-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::run::main(order_service::NAME, env!("CARGO_PKG_VERSION"), order_service::run)
}
