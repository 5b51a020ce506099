//! Each rpc through a real client and server, on both databases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod buyers;
mod catalogue;
mod change;
mod histories;
mod model;
mod reservations;
mod sequences;
mod stock;
mod upgrade;
