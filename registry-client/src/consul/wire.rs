//! The JSON of an agent, parsed leniently: `null` for an empty list or map,
//! missing zero values, unknown fields, and any integer for a port.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::GoDuration;
use crate::instance::Locality;

/// A registered service of `/v1/agent/service/:id` and
/// `/v1/health/service/:name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct AgentService {
    /// The id, unique on its agent.
    #[serde(rename = "ID", deserialize_with = "null_is_default")]
    pub id: String,
    /// The service's name.
    #[serde(deserialize_with = "null_is_default")]
    pub service: String,
    /// The address; empty for that of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// The port, as registered: any integer.
    #[serde(deserialize_with = "any_integer")]
    pub port: i64,
    /// Labels.
    #[serde(deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Key-value pairs.
    #[serde(deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
    /// The shares of the load.
    #[serde(deserialize_with = "null_is_default")]
    pub weights: WireWeights,
    /// Addresses by use, such as `wan`.
    #[serde(deserialize_with = "null_is_default")]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// The locality; `None` on agents before 1.16, and for an invalid one.
    #[serde(deserialize_with = "any_locality")]
    pub locality: Option<Locality>,
}

/// An address for one use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct TaggedAddress {
    /// The host.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// The port, as registered; 0 for the service's own.
    #[serde(deserialize_with = "any_integer")]
    pub port: i64,
}

/// Weights as registered: any integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct WireWeights {
    /// The weight while every check passes.
    #[serde(default, deserialize_with = "any_integer")]
    pub passing: i64,
    /// The weight while a check warns.
    #[serde(default, deserialize_with = "any_integer")]
    pub warning: i64,
}

impl Default for WireWeights {
    /// The weights of an agent that sends none.
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// A check, of a service or of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Check {
    /// The node of the agent.
    #[serde(deserialize_with = "null_is_default")]
    pub node: String,
    /// The id, unique on its agent.
    #[serde(rename = "CheckID", deserialize_with = "null_is_default")]
    pub id: String,
    /// The status.
    #[serde(deserialize_with = "null_is_default")]
    pub status: CheckStatus,
    /// Notes, such as the reason of a maintenance.
    #[serde(deserialize_with = "null_is_default")]
    pub notes: String,
    /// The output of the prober, which Consul updates with a delay.
    #[serde(deserialize_with = "null_is_default")]
    pub output: String,
    /// The id of its service; empty for a check of the node.
    #[serde(rename = "ServiceID", deserialize_with = "null_is_default")]
    pub service_id: String,
    /// `grpc`, `ttl`, `http`, …; empty on agents before 1.7.
    #[serde(rename = "Type", deserialize_with = "null_is_default")]
    pub kind: String,
    /// The interval of probes.
    #[serde(deserialize_with = "any_duration")]
    pub interval: GoDuration,
    /// The timeout of a probe.
    #[serde(deserialize_with = "any_duration")]
    pub timeout: GoDuration,
}

/// The status of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Healthy.
    Passing,
    /// Usable, with a warning.
    Warning,
    /// Not usable; also the meaning of an unknown or missing status.
    #[default]
    Critical,
}

impl<'de> Deserialize<'de> for CheckStatus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Ok(match text.as_str() {
            "passing" => Self::Passing,
            "warning" => Self::Warning,
            _ => Self::Critical,
        })
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// The node that an instance is registered on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Node {
    /// The node's name.
    #[serde(deserialize_with = "null_is_default")]
    pub node: String,
    /// The node's address.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// Addresses by use, such as `wan`.
    #[serde(deserialize_with = "null_is_default")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// Key-value pairs, such as `consul-version`.
    #[serde(deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
}

/// A registered instance with its node and all its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct HealthEntry {
    /// The node.
    #[serde(deserialize_with = "null_is_default")]
    pub node: Node,
    /// The instance.
    #[serde(deserialize_with = "null_is_default")]
    pub service: AgentService,
    /// The checks of the instance and of its node.
    #[serde(deserialize_with = "null_is_default")]
    pub checks: Vec<Check>,
}

/// The used part of `/v1/agent/self`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct AgentSelf {
    /// The agent's settings.
    #[serde(deserialize_with = "null_is_default")]
    pub config: AgentConfig,
}

/// The settings of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct AgentConfig {
    /// The datacenter.
    #[serde(deserialize_with = "null_is_default")]
    pub datacenter: String,
    /// The name of the node.
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    /// True for a server, false for a client agent.
    #[serde(deserialize_with = "null_is_default")]
    pub server: bool,
    /// The version, such as `1.22.5`.
    #[serde(deserialize_with = "null_is_default")]
    pub version: String,
}

/// Reads `null` as the type's default.
pub(super) fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads any number as the nearest `i64`; other values are -1, which is no
/// valid port or weight.
fn any_integer<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let number = match serde_json::Value::deserialize(from)? {
        serde_json::Value::Null => return Ok(0),
        serde_json::Value::Number(number) => number,
        _ => return Ok(-1),
    };
    Ok(number.as_i64().unwrap_or(if number.as_u64().is_some() { i64::MAX } else { -1 }))
}

/// Reads a duration; other values are 0. A check that was written directly into
/// the catalog may have any text there.
fn any_duration<'de, D: Deserializer<'de>>(from: D) -> Result<GoDuration, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Reads a locality; an invalid one, such as a zone without a region, is
/// `None`.
fn any_locality<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Locality>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    let part = |name: &str| value.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    Ok(Locality::new(part("Region"), part("Zone")).ok())
}

/// The most elements of one list: more would cost memory that no real registry
/// needs.
pub(super) const MAX_ITEMS: usize = 16_384;

/// A list of at most [`MAX_ITEMS`] elements; `null` is empty.
#[derive(Debug)]
pub(super) struct BoundedList<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for BoundedList<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for BoundedVisitor<T> {
    type Value = BoundedList<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_ITEMS} elements")
    }

    fn visit_unit<E: de::Error>(self) -> Result<BoundedList<T>, E> {
        Ok(BoundedList(Vec::new()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<BoundedList<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            if list.len() == MAX_ITEMS {
                return Err(de::Error::invalid_length(MAX_ITEMS + 1, &self));
            }
            list.push(element);
        }
        Ok(BoundedList(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_missing_and_unknown_fields_are_taken_in_stride() {
        let json = r#"[{"Node": null, "Service": {"ID": "a", "Port": 80, "Tags": null, "Meta": null,
            "Weights": {"Passing": 5}, "New": {"x": 1}}, "Checks": null}, {}]"#;
        let BoundedList(entries) = serde_json::from_str::<BoundedList<HealthEntry>>(json).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].service.port, 80);
        assert_eq!(entries[0].service.weights, WireWeights { passing: 5, warning: 0 });
        assert_eq!(entries[1].service.weights, WireWeights { passing: 1, warning: 1 });
        assert!(serde_json::from_str::<BoundedList<HealthEntry>>("null").unwrap().0.is_empty());
    }

    #[test]
    fn a_port_is_whatever_somebody_registered() {
        for (json, port) in [
            ("-1", -1),
            ("70000", 70_000),
            ("18446744073709551615", i64::MAX),
            ("1e30", -1),
            ("\"80\"", -1),
            ("null", 0),
        ] {
            let service: AgentService = serde_json::from_str(&format!("{{\"Port\": {json}}}")).unwrap();
            assert_eq!(service.port, port, "{json}");
        }
    }

    #[test]
    fn a_locality_is_a_region_with_or_without_a_zone_or_none() {
        let locality = |region, zone| Some(Locality::new(region, zone).unwrap());
        for (json, read) in [
            (r#"{"Region": "eu", "Zone": "a"}"#, locality("eu", "a")),
            (r#"{"Region": "eu", "Zone": ""}"#, locality("eu", "")),
            (r#"{"Region": "eu", "New": 1}"#, locality("eu", "")),
            (r#"{"Region": "", "Zone": "a"}"#, None),
            (r#"{"Region": 1}"#, None),
            ("null", None),
            ("\"eu\"", None),
        ] {
            let service: AgentService = serde_json::from_str(&format!("{{\"Locality\": {json}}}")).unwrap();
            assert_eq!(service.locality, read, "{json}");
        }
    }

    #[test]
    fn an_unknown_status_is_critical() {
        let check: Check = serde_json::from_str(r#"{"Status": "odd", "Interval": "10s"}"#).unwrap();
        assert_eq!(check.status, CheckStatus::Critical);
        assert_eq!(check.interval.0.as_secs(), 10);
        let check: Check = serde_json::from_str(r#"{"Interval": "often", "Timeout": 5}"#).unwrap();
        assert!(check.interval.0.is_zero());
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let endless = format!("[{}{{}}]", "{},".repeat(MAX_ITEMS));
        let error = serde_json::from_str::<BoundedList<HealthEntry>>(&endless).unwrap_err();
        assert!(error.to_string().contains("at most 16384"), "{error}");
    }
}
