//! Events, from the change to their effect in another service.

mod bed;
mod delivery;
mod failure;
mod metrics;
mod nats;
mod sources;
