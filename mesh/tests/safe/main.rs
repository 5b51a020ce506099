//! The whole shop in one process, where every service asks who calls: whether
//! its parts believe one another, and whom and what it refuses.
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
