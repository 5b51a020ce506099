//! Events, from the change that they tell of to their effect elsewhere.

mod bed;
mod delivery;
mod failure;
mod metrics;
mod nats;
mod sources;
