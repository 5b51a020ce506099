//! What a channel knows right now, for whoever looks into a process.

use serde::Serialize;

/// One channel, as `/debug/mesh` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChannelState {
    /// The service that it calls.
    pub service: String,
    /// The balancing policy.
    pub balancer: String,
    /// How many instances calls can go to.
    pub ready: usize,
    /// Why there is none; `None` while there is one.
    pub why_none: Option<String>,
    /// Why the last look-up in the registry failed; `None` when it succeeded.
    pub resolver_error: Option<String>,
    /// Every instance that is known.
    pub instances: Vec<InstanceState>,
    /// Calls begun since the channel was made.
    pub calls: u64,
    /// Attempts sent.
    pub attempts: u64,
    /// Retries among them, transparent ones too.
    pub retries: u64,
    /// Hedges among them.
    pub hedges: u64,
    /// Instances taken out because their attempts failed.
    pub ejections: u64,
}

/// One instance, as a channel sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InstanceState {
    /// Its id in the registry.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// True if calls go to it.
    pub ready: bool,
    /// Why not, or why although something speaks against it, in words; empty
    /// when nothing does.
    pub why: String,
    /// What decided that it is out: `registry`, `watch`, `connection`,
    /// `outlier`, or `damping` when the first two took it out several times
    /// within a minute; `None` while it is in.
    pub decided_by: Option<&'static str>,
    /// What the registry says: `passing`, `warning`, `critical`,
    /// `maintenance`; `unlisted` when it lists it no more.
    pub registry: &'static str,
    /// What its health service says: `serving`, `not_serving`, `unknown` until
    /// it has answered, `off` when it is not asked or has none.
    pub watch: &'static str,
    /// Where its subchannel stands: `idle`, `connecting`, `ready`, `draining`
    /// or `transient_failure`.
    pub connection: &'static str,
    /// Open connections.
    pub connections: usize,
    /// Requests under way to it, from this process.
    pub in_flight: u32,
    /// Its share of the load relative to the others.
    pub weight: u16,
    /// How often it was ejected, less one for each quiet interval since.
    pub ejections: u32,
}
