//! Faulty peers and networks, for tests of what calls through a channel.
pub use crate::channel::{Connector, Io};

mod health;
mod reply;
mod server;
mod service;
mod stream;

pub use health::Health;
pub use reply::Reply;
pub use server::FaultyServer;
pub use service::{Counts, FaultyService, Http2};
