//! Each rpc through a real client and server, on both databases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod admin;
mod app;
mod cleaning;
mod keys;
mod login;
mod notifications;
mod register;
mod rights;
mod secrets;
mod sessions;
