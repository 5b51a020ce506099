//! The deadline of a call.

use std::time::Duration;

use tokio::time::Instant;

/// The time at which a call ends, and the timeout that it was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) timeout: Duration,
}
