//! What the shop's services share.
//!
//! - [`run`]: the paved path of a service's `main`
//! - [`config`]: settings, each from a flag, the environment or a default
//! - [`telemetry`]: what is logged, and how
//! - [`database`]: one type over SQLite and PostgreSQL
//! - [`changes`] and [`follow`]: streams that see changes made through any
//!   replica
//! - [`value`], [`money`], [`currency`], [`timestamp`], [`page`]: values, valid by
//!   construction
//! - [`error`]: what a caller is told when a call fails
//!
//! Feature `test-util`: `testing`, databases and replicas for tests.

pub mod changes;
pub mod config;
pub mod currency;
pub mod database;
pub mod error;
pub mod follow;
pub mod money;
pub mod page;
pub mod run;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod timestamp;
pub mod value;
