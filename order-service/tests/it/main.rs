//! Each rpc through a real client and server, on both databases: with a real
//! cart-service, and with a played one where it is to misbehave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod create;
mod mishaps;
mod orders;
mod played;
mod watch;
