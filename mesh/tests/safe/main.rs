//! The whole shop in one process, with authentication: services accept each
//! other, and reject other callers and bad requests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bytes;
mod callers;
#[allow(dead_code, reason = "the program uses all of it")]
#[path = "../../src/dynamic.rs"]
mod dynamic;
mod hostile;
mod life;
mod rows;
mod secrets;
mod shop;
mod stage;
mod values;
