//! order-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::service::main::<order_service::OrderService>()
}
