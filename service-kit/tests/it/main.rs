//! The database on real servers and files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod database;
mod idempotency;
mod set_up;
