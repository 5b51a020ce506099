//! The state of channels, as the admin endpoint shows it.

use serde::Serialize;

/// One channel, as `/debug/mesh` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChannelState {
    /// The service.
    pub service: String,
    /// The balancing policy.
    pub balancer: String,
    /// The number of ready instances.
    pub ready: usize,
    /// The reason for which no instance is ready; `None` while one is.
    pub why_none: Option<String>,
    /// The error of the last look-up in the registry; `None` when it succeeded.
    pub resolver_error: Option<String>,
    /// Every known instance.
    pub instances: Vec<InstanceState>,
    /// Calls begun since the channel was created.
    pub calls: u64,
    /// Attempts sent.
    pub attempts: u64,
    /// Retries among the attempts, transparent ones included.
    pub retries: u64,
    /// Hedges among the attempts.
    pub hedges: u64,
    /// Instances ejected by outlier detection.
    pub ejections: u64,
}

/// The state of one instance in a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InstanceState {
    /// The id.
    pub id: String,
    /// The address that it listens on.
    pub address: String,
    /// True if calls go to it.
    pub ready: bool,
    /// The reason for which it gets no calls, or gets them only as a last
    /// resort; empty for a healthy instance.
    pub why: String,
    /// The source of the decision that it is out: `registry`, `watch`,
    /// `connection`, `outlier`, or `damping` when the first two flapped within
    /// a minute; `None` while it is in.
    pub decided_by: Option<&'static str>,
    /// The health in the registry: `passing`, `warning`, `critical`,
    /// `maintenance`; `unlisted` when it is no longer listed.
    pub registry: &'static str,
    /// The status of its health service: `serving`, `not_serving`, `unknown`
    /// until the first response, `off` without a health check.
    pub watch: &'static str,
    /// The state of its subchannel: `idle`, `connecting`, `ready`, `draining`
    /// or `transient_failure`.
    pub connection: &'static str,
    /// Open connections.
    pub connections: usize,
    /// Requests in flight from this process.
    pub in_flight: u32,
    /// The share of the load relative to the others.
    pub weight: u16,
    /// The number of ejections, less one for each quiet interval since.
    pub ejections: u32,
}
