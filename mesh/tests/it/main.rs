//! The built program, run as people run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests, and the tools they need are found by the environment"
)]

mod demo;
mod dns;
mod migrate;
mod running;
mod setup_errors;
mod shop;
mod walk;
