//! Each rpc through a real client and server, on both databases: with real
//! dependencies, and with fakes that misbehave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod cart_failures;
mod crashes;
mod create;
mod fakes;
mod late;
mod life;
mod migration;
mod orders;
mod races;
mod sagas;
mod watch;
