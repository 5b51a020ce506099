//! Each rpc through a real client and server, on both databases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod charges;
mod concurrency;
mod faults;
mod ledger;
mod lists;
mod upgrade;
