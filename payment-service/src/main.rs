//! payment-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::service::main::<payment_service::PaymentService>()
}
