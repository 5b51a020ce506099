//! user-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::service::main::<user_service::UserService>()
}
