//! What a registration must fulfil, with the texts of the real agent and in its order.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::Definition;
use crate::agent::listed;
use crate::answer::Failure;
use crate::model::{Locality, NamedPort, Status, Weights};

const MAX_META_PAIRS: usize = 64;
const MAX_META_KEY: usize = 128;
const MAX_META_VALUE: usize = 512;
const RESERVED_META_PREFIX: &str = "consul-";

/// Refuses what cannot be registered.
pub(super) fn definition(definition: &Definition) -> Result<(), Failure> {
    let service = &definition.service;
    if service.name.is_empty() {
        return Err(Failure::bad_request("Missing service name"));
    }
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Failure::bad_request("Invalid service address"));
    }
    let refuse = |what: &str, why: String| Failure::bad_request(format!("{what}: {why}"));
    weights(definition.weights).map_err(|why| refuse("Invalid Weights", why.to_owned()))?;
    meta(service.meta.as_ref()).map_err(|why| refuse("Invalid Service Meta", why))?;
    let mut faults = Vec::new();
    faults.extend(locality(service.locality.as_ref()).map(str::to_owned));
    if definition.kind == "connect-proxy" && service.port == 0 && service.socket_path.is_empty() {
        faults.push("Port or SocketPath must be set for a connect-proxy".to_owned());
    }
    if service.native && service.port == 0 && service.socket_path.is_empty() {
        faults.push("Port or SocketPath must be set for a Connect native service.".to_owned());
    }
    if !service.ports.is_empty() && service.port != 0 {
        faults.push("Cannot set both Port and Ports".to_owned());
    }
    faults.extend(ports(&service.ports));
    if !faults.is_empty() {
        return Err(refuse("Validation failed", listed(&faults)));
    }
    for check in &definition.checks {
        check.validate().map_err(|why| refuse("Invalid check", why.to_owned()))?;
    }
    for check in &definition.checks {
        if !check.status.is_empty() && Status::from_name(&check.status).is_none() {
            return Err(Failure::bad_request("Status for checks must 'passing', 'warning', 'critical'"));
        }
    }
    let unserved = if definition.kind.is_empty() { definition.unserved } else { Some("Kind") };
    match unserved {
        Some(field) => Err(Failure::bad_request(format!(
            "this development agent registers services without a sidecar or gateway only; `{field}` needs a real Consul agent"
        ))),
        None => Ok(()),
    }
}

fn weights(weights: Option<Weights>) -> Result<(), &'static str> {
    match weights {
        Some(weights) if weights.passing < 1 => Err("Passing must be greater than 0"),
        Some(weights) if weights.warning < 0 => Err("Warning must be greater or equal than 0"),
        Some(weights) if weights.passing > 65535 || weights.warning > 65535 => {
            Err("DNS Weight must be between 0 and 65535")
        }
        _ => Ok(()),
    }
}

fn meta(meta: Option<&BTreeMap<String, String>>) -> Result<(), String> {
    let Some(meta) = meta else { return Ok(()) };
    if meta.len() > MAX_META_PAIRS {
        return Err(format!("Node metadata cannot contain more than {MAX_META_PAIRS} key/value pairs"));
    }
    for (key, value) in meta {
        meta_pair(key, value)
            .map_err(|why| format!("Couldn't load metadata pair ('{key}', '{value}'): {why}"))?;
    }
    Ok(())
}

fn meta_pair(key: &str, value: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("Key cannot be blank".to_owned());
    }
    if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return Err("Key contains invalid characters".to_owned());
    }
    if key.len() > MAX_META_KEY {
        return Err(format!("Key is too long (limit: {MAX_META_KEY} characters)"));
    }
    if key.starts_with(RESERVED_META_PREFIX) {
        return Err(format!("Key prefix '{RESERVED_META_PREFIX}' is reserved for internal use"));
    }
    if value.len() > MAX_META_VALUE {
        return Err(format!("Value is too long (limit: {MAX_META_VALUE} characters)"));
    }
    Ok(())
}

fn locality(locality: Option<&Locality>) -> Option<&'static str> {
    let locality = locality?;
    (locality.region.is_empty() && !locality.zone.is_empty()).then_some("zone cannot be set without region")
}

fn ports(ports: &[NamedPort]) -> Option<String> {
    if ports.is_empty() {
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut default_seen = false;
    for port in ports {
        if port.name.trim().is_empty() {
            return Some("Ports.Name cannot be empty".to_owned());
        }
        if port.port <= 0 {
            return Some("Ports.Port must be greater than zero".to_owned());
        }
        if !seen.insert(port.name.as_str()) {
            return Some(format!("Ports.Name {:?} has to be unique", port.name));
        }
        if default_seen && port.default {
            return Some("Only one port can be marked as default".to_owned());
        }
        default_seen |= port.default;
    }
    (!default_seen).then(|| "One of the Ports must be marked as Default".to_owned())
}
