//! The database on real servers and files, and callers over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod auth;
mod changes;
mod database;
mod events;
mod failover;
mod faults;
mod group;
mod idempotency;
mod lease;
mod pooler;
mod posted;
mod set_up;
mod unit;
