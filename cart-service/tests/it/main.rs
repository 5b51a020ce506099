//! Each rpc through a real client and server, with a real product-service, on
//! both databases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod items;
mod news;
mod prices;
mod replicas;
mod upgrade;
mod watch;
