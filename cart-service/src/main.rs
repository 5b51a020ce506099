//! cart-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::run::main(cart_service::NAME, env!("CARGO_PKG_VERSION"), cart_service::run)
}
