//! The client, the resolver and the registration, on the development agent, a
//! real Consul, and a liar.

pub(crate) mod agents;
mod balancer;
mod damping;
pub(crate) mod discovery;
mod faults;
mod garbage;
mod identity;
mod liar;
mod outage;
mod registration;
mod registry;
mod security;
mod server;
mod versions;
