//! What the library promises, on real sockets.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod admin;
mod admission;
mod age;
mod authority;
mod channel;
mod consul;
mod content_type;
mod dialling;
mod dropped;
mod ends;
mod faults;
mod gzip;
mod health;
mod hops;
mod hostile;
mod list;
mod log;
mod mesh;
mod metrics;
mod peers;
mod policies;
mod process;
mod reflection;
mod registration;
mod scripted;
mod server;
mod snapshot;
mod strict;
mod testing;
mod upload;
