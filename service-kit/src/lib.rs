//! What the shop's services share.
//!
//! - [`service`]: the one wiring of a service, from its settings to its end
//! - [`run`]: the paved path of a service's `main`
//! - [`auth`]: who calls, and what they may do
//! - [`config`]: settings, each from a flag, the environment or a default
//! - [`telemetry`]: what is logged, and how
//! - [`metrics`]: what is measured, as a page for Prometheus
//! - [`database`]: one type over SQLite and PostgreSQL
//! - [`events`]: what has happened, told to the services that subscribe
//! - [`idempotency`]: the same request is answered the same, and done once
//! - [`lease`]: what only one replica does at a time
//! - [`retention`]: what is kept for how long, and forgotten a batch at a time
//! - [`changes`] and [`follow`]: streams that see changes made through any
//!   replica
//! - [`value`], [`money`], [`currency`], [`timestamp`], [`page`]: values, valid by
//!   construction
//! - [`private`]: files that only their owner may read
//! - [`error`]: what a caller is told when a call fails
//!
//! Feature `fuzzing`: for this project's own fuzz targets. Feature `test-util`: `testing`, databases and replicas for tests.

pub mod auth;
pub mod changes;
pub mod config;
pub mod currency;
pub mod database;
pub mod error;
pub mod events;
pub mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod idempotency;
pub mod lease;
pub mod metrics;
pub mod money;
pub mod page;
pub mod private;
pub mod retention;
pub mod run;
pub mod service;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod timestamp;
pub mod value;
