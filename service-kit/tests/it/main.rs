//! The database on real servers and files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod database;
mod events;
mod idempotency;
mod lease;
mod set_up;
