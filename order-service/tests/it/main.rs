//! Each rpc through a real client and server, on both databases: with real
//! neighbours, and with played ones where they are to misbehave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod crashes;
mod create;
mod late;
mod life;
mod migration;
mod mishaps;
mod orders;
mod played;
mod races;
mod sagas;
mod watch;
