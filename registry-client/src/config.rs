//! Settings, each with its unit and default. Plain values: only the
//! `from_env` constructors read the environment.

use std::time::Duration;

use crate::balance::Balancer;

/// How a [`Channel`](crate::Channel) calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// The longest a call may take when its caller sets no `grpc-timeout`:
    /// waiting, connecting and all attempts together; 15 s unless set
    /// (`CONSORT_DEADLINE`).
    pub deadline: Duration,
    /// Which instance a call goes to; `least_request` unless set
    /// (`CONSORT_BALANCER`).
    pub balancer: Balancer,
    /// After how long without a byte received a connection is asked whether it
    /// is alive; 10 s unless set (`CONSORT_KEEPALIVE_TIME`).
    pub keepalive_time: Duration,
    /// How long the answer to that may take before the connection counts as
    /// dead; 5 s unless set (`CONSORT_KEEPALIVE_TIMEOUT`).
    pub keepalive_timeout: Duration,
    /// The longest that connecting to one instance may take; 5 s unless set.
    pub connect_timeout: Duration,
    /// Whether a call fails at once, with UNAVAILABLE, when no instance is
    /// ready and none is being connected to for the first time. Off unless
    /// set: the call waits for one until its deadline.
    pub fail_fast: bool,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            balancer: Balancer::default(),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            fail_fast: false,
        }
    }
}
