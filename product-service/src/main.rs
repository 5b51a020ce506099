//! product-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::run::main(product_service::NAME, env!("CARGO_PKG_VERSION"), product_service::run)
}
