//! A proxyless Consul service mesh for Rust gRPC.

mod backoff;
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
pub mod telemetry;

pub use channel::{Answer, Call, Channel};
pub use config::{Advertise, ChannelConfig, ServerConfig, parse_duration};
pub use error::Error;
pub use mesh::{Mesh, MeshBuilder};
