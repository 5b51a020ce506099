//! The mechanisms that several modules can switch off.

use std::time::Duration;

/// The mechanism that limits the resources of each peer of a server.
pub(crate) const PEER_LIMITS: &str = "limits per peer";
/// The mechanism that closes a client's dead connections.
pub(crate) const TIMEOUTS: &str = "timeouts of connections";
/// The mechanism that limits a server's concurrent calls.
pub(crate) const ADMISSION: &str = "admission";
/// The mechanisms that limit a client's attempts.
pub(crate) const CLIENT_LIMITS: &str = "retry budget and throttle";
/// Longer than any scenario.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);
