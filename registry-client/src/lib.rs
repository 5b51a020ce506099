//! A proxyless Consul service mesh for Rust gRPC.
//!
//! A service that uses this library registers itself in Consul and is found
//! there, and its calls go straight from process to process: no sidecar, and
//! no address in any configuration.
//!
//! ```no_run
//! # use tonic_health::{
//! #     pb::{health_client::HealthClient as CartServiceClient, health_server::HealthServer as OrderServiceServer},
//! #     server::{HealthReporter, HealthService},
//! # };
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! # let orders = HealthService::from_health_reporter(HealthReporter::new());
//! use registry_client::{Mesh, server::shutdown_signal};
//! use tokio::net::TcpListener;
//!
//! let mesh = Mesh::from_env().await?;
//! let mut carts = CartServiceClient::new(mesh.channel("cart-service"));
//!
//! let listener = TcpListener::bind("0.0.0.0:0").await?;
//! mesh.serve("order-service")
//!     .add_service(OrderServiceServer::new(orders))
//!     .run(listener, shutdown_signal())
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! `CartServiceClient` and `OrderServiceServer` are what tonic generates. The
//! whole of it, two services that call each other, is the workspace's
//! `examples/hello`: `cargo run -p hello`.
//!
//! # What that does
//!
//! The **server** registers with a gRPC health check and stays registered,
//! whatever happens to the agent. It answers `grpc.health.v1` and reflection,
//! bounds what one peer can take, ends calls whose deadline has passed, and
//! stops without failing a call: [`server`] tells in which order.
//!
//! The **channel** knows every instance that the registry lists and keeps a
//! connection to each. Every call has a deadline that covers waiting,
//! connecting and all attempts, and that the calls of a handler share with the
//! one it answers. What was provably not processed is sent to another instance,
//! and so is, after a failure and within a budget, a call whose method is
//! declared safe to send twice. An instance that hangs, says that it does not
//! serve, or fails more than others gets no calls until it is well ([`health`]).
//! While the registry is down or talks nonsense, the last good set is used; on
//! disk it outlives the process. gRPC's service config says what shall hold
//! instead ([`policy`]), and [`Channel::state`], the metrics and
//! `/debug/mesh` ([`admin`]) say why calls go where they go.
//!
//! # Terms
//!
//! - *Instance*: one registered process of a service ([`instance`]).
//! - *Resolver*: tells the current set of a service's instances ([`resolve`]);
//!   Consul ([`consul`]) is one.
//! - *Subchannel*: one instance's connections and their state.
//! - *Ready set*: the instances that calls can go to, an immutable snapshot.
//! - *Picker*: chooses one of them for each attempt ([`balance`]).
//! - *Channel*: what a generated client calls through ([`Channel`]).
//! - *Policy*: what holds for one method ([`policy`]).
//! - *Call*: what the caller asked for; *attempt*: one time it was sent
//!   ([`telemetry`] shows them).
//! - *Draining*: finishing what is under way and taking nothing new.
//!
//! # Features
//!
//! - `fuzzing`: for this project's own fuzz targets.
//! - `test-util`: what tests of one's own failover need, see `testing`. Off
//!   unless asked for.
//!
//! # What it does not do
//!
//! It starts no proxy and speaks no xDS. It is no Consul agent: one must run
//! somewhere that the process can reach.

pub mod admin;
mod backoff;
pub mod balance;
mod channel;
pub mod code;
mod config;
pub mod consul;
mod dial;
mod error;
mod framing;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod instance;
mod mesh;
pub mod outcome;
pub mod policy;
pub mod resolve;
pub mod server;
mod snapshot;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;

pub use channel::{Channel, ResponseBody, ResponseFuture};
pub use config::{AdminConfig, AdmissionConfig, Advertise, ChannelConfig, ServerConfig, parse_duration};
pub use error::Error;
pub use mesh::{Mesh, MeshBuilder};
pub use snapshot::Remembered;
