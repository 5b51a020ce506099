//! Faulty servers and networks, for tests of failover, with the feature
//! `test-util`:
//!
//! ```toml
//! [dev-dependencies]
//! registry-client = { version = "0.1", features = ["test-util"] }
//! ```
//!
//! # A short guide
//!
//! 1. Start one [`FaultyServer`] for each instance; it echoes the messages of
//!    generated clients, or behaves like a [`Reply`].
//! 2. Give the channel a
//!    [`FixedResolver`](crate::resolve::fixed::FixedResolver), whose
//!    [`set`](crate::resolve::fixed::FixedResolver::set) and
//!    [`fail`](crate::resolve::fixed::FixedResolver::fail) simulate a registry
//!    that changes or fails.
//! 3. Call, change the behaviour of the server, call again. Wait on
//!    [`until`](FaultyService::until) instead of sleeping.
//!
//! | fault | how |
//! |---|---|
//! | an instance is slow | `server.set(Reply::Slow(latency))` |
//! | fails fast, fails some calls | `set(Reply::fail(code))`, [`set_share`](FaultyService::set_share) |
//! | resets streams, answers pages or nonsense | `set(Reply::Reset(code, after))`, `set(Reply::Raw { .. })` |
//! | delays retries (pushback) | `set(Reply::pushback(code, after))` |
//! | hangs before or during its response | `set(Reply::Hang)`, `set(Reply::HangAfterHead)` |
//! | drains, drains all the time | [`go_away`](FaultyService::go_away), `set(Reply::GoAway)` |
//! | allows few streams, refuses them | [`set_http2`](FaultyService::set_http2), `set(Reply::Refuse)` |
//! | reports that it does not serve | [`set_health`](FaultyService::set_health) |
//! | closes connections, is killed | [`close`](FaultyService::close), `drop(server)` |
//! | comes back | [`FaultyServer::start_at`] its old address |
//! | the network is slow, silent, broken | a [`FaultProxy`] in front, and a [`Fault`] |
//!
//! Where the network itself is simulated, with `turmoil` for instance, a
//! [`Connector`] opens the channel's sockets and
//! [`serve`](FaultyService::serve) responds on them:
//!
//! ```
//! use registry_client::{
//!     Channel, ChannelConfig,
//!     instance::Instance,
//!     policy::Methods,
//!     resolve::fixed::FixedResolver,
//!     testing::{Connector, FaultyService, Reply},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = FaultyService::from(Reply::Echo);
//! let serving = service.clone();
//! // No socket at all: each connection is a pipe in memory.
//! let connector = Connector::new(move |_address| {
//!     let (ours, theirs) = tokio::io::duplex(64 << 10);
//!     let serving = serving.clone();
//!     tokio::spawn(async move { serving.serve(theirs).await });
//!     async move { Ok(ours) }
//! });
//! let resolver = FixedResolver::with([Instance::new("one", "nowhere:1".parse()?)]);
//! let (methods, config) = (Methods::default(), ChannelConfig::default());
//! let channel = Channel::with_connector("echo".parse()?, &resolver, methods, config, connector);
//! service.until(|seen| seen.open == 1).await;
//! # drop(channel);
//! # Ok(())
//! # }
//! ```

pub use crate::channel::{Connector, Io};

mod health;
mod proxy;
mod reply;
mod server;
mod service;
mod stream;

pub use health::HealthReply;
pub use proxy::{Direction, Fault, FaultProxy};
pub use reply::Reply;
pub use server::FaultyServer;
pub use service::{Counts, FaultyService, Http2};
