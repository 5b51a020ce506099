//! The registered services and checks, and their node.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// The version of Consul that this agent implements.
///
/// Clients enable features by this version, so it is a plain semantic version, and the one that the conformance
/// suite compares with. A suffix such as `-dev` would sort below 1.22.5 and switch features off.
pub(crate) const CONSUL_VERSION: &str = "1.22.5";

/// The id of the check of the agent's own liveness.
pub(crate) const SERF_CHECK: &str = "serfHealth";
/// The id of the check that an operator's maintenance of the node sets.
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
/// The prefix, before the service id, of the check that maintenance of a service
/// sets.
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// The status of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckStatus {
    Passing,
    Warning,
    #[default]
    Critical,
}

impl CheckStatus {
    /// The status of that name, if there is one.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An address of a service for a kind of caller (`lan`, `wan`, …).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaggedAddress {
    pub(crate) address: String,
    pub(crate) port: i64,
}

/// The share of traffic of an instance while passing and while warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    pub(crate) passing: i64,
    pub(crate) warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// One of several named ports of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) port: i64,
    pub(crate) default: bool,
}

/// The location of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Locality {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) zone: String,
}

/// A registered service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The tags; `None` if the registration had none.
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) address: String,
    pub(crate) tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// The metadata; `None` if the registration had none, which the catalog
    /// shows as `null`.
    pub(crate) meta: Option<BTreeMap<String, String>>,
    pub(crate) port: i64,
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) socket_path: String,
    pub(crate) weights: Weights,
    pub(crate) enable_tag_override: bool,
    pub(crate) locality: Option<Locality>,
    /// True if it implements Connect itself, without a sidecar.
    pub(crate) native: bool,
}

impl Service {
    /// The port for callers that do not know named ports.
    pub(crate) fn default_port(&self) -> i64 {
        self.ports.iter().find(|port| port.default).map_or(self.port, |port| port.port)
    }
}

/// A check's present state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Check {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: CheckStatus,
    pub(crate) notes: String,
    pub(crate) output: String,
    /// Empty for a check of the node.
    pub(crate) service_id: String,
    pub(crate) service_name: String,
    pub(crate) service_tags: Option<Vec<String>>,
    /// `ttl`, `grpc`, `tcp`, `http`, `maintenance`, or empty for `serfHealth`.
    pub(crate) kind: &'static str,
    pub(crate) interval: String,
    pub(crate) timeout: String,
}

/// The one node of this agent.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) datacenter: String,
    pub(crate) address: String,
    pub(crate) port: u16,
}
