//! A proxyless Consul service mesh for Rust gRPC.

pub mod balance;
mod channel;
mod config;
pub mod consul;
mod error;
pub mod instance;
mod mesh;
pub mod policy;
pub mod resolve;
pub mod server;

pub use channel::Channel;
pub use config::ChannelConfig;
pub use error::Error;
pub use mesh::Mesh;
