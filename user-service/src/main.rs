//! user-service, by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::run::main::<user_service::UserService>()
}
