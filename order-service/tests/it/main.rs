//! Each rpc through a real client and server, with a real cart-service, on both
//! databases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod create;
mod orders;
mod watch;
