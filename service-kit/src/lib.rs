//! The code that the shop's services share.
//!
//! - [`service`]: `main` and the wiring of a service, from its settings to its end
//! - [`auth`]: authentication and authorization of callers
//! - [`config`]: settings, each from a flag, the environment or a default
//! - [`telemetry`][]: logging
//! - [`metrics`]: metrics, as a page for Prometheus
//! - [`database`]: one type over SQLite and PostgreSQL
//! - [`events`]: events, from an outbox to the services that subscribe
//! - [`nats`]: the client of NATS
//! - [`idempotency`]: a repeated request has one effect and gets the same response
//! - [`lease`]: the exclusive right of one replica to a task
//! - [`retention`]: deletion of old rows, a batch at a time
//! - [`changes`] and [`follow`]: streams that see changes made through any
//!   replica
//! - [`value`], [`id`], [`money`], [`currency`], [`timestamp`], [`page`]: values, valid by
//!   construction
//! - [`private`]: files that only their owner may read
//! - [`error`]: the errors that callers see
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
pub mod id;
pub mod idempotency;
pub mod lease;
pub mod metrics;
pub mod money;
pub mod nats;
pub mod page;
pub mod private;
pub mod retention;
pub mod service;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod timestamp;
pub mod value;
