//! The validation of a registration, with the error texts and in the order of a real
//! agent.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::Definition;
use crate::agent::error_list;
use crate::model::{CheckStatus, Locality, NamedPort, Weights};
use crate::response::ErrorResponse;

const MAX_META_PAIRS: usize = 64;
const MAX_META_KEY: usize = 128;
const MAX_META_VALUE: usize = 512;
const RESERVED_META_PREFIX: &str = "consul-";

/// Rejects an invalid registration.
pub(super) fn definition(definition: &Definition) -> Result<(), ErrorResponse> {
    let service = &definition.service;
    if service.name.is_empty() {
        return Err(ErrorResponse::bad_request("Missing service name"));
    }
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(ErrorResponse::bad_request("Invalid service address"));
    }
    let invalid = |what: &str, why: String| ErrorResponse::bad_request(format!("{what}: {why}"));
    weights(definition.weights).map_err(|why| invalid("Invalid Weights", why.to_owned()))?;
    meta(service.meta.as_ref()).map_err(|why| invalid("Invalid Service Meta", why))?;
    let mut errors = Vec::new();
    errors.extend(locality(service.locality.as_ref()).map(str::to_owned));
    if definition.kind == "connect-proxy" && service.port == 0 && service.socket_path.is_empty() {
        errors.push("Port or SocketPath must be set for a connect-proxy".to_owned());
    }
    if service.native && service.port == 0 && service.socket_path.is_empty() {
        errors.push("Port or SocketPath must be set for a Connect native service.".to_owned());
    }
    if !service.ports.is_empty() && service.port != 0 {
        errors.push("Cannot set both Port and Ports".to_owned());
    }
    errors.extend(ports(&service.ports));
    if !errors.is_empty() {
        return Err(invalid("Validation failed", error_list(&errors)));
    }
    for check in &definition.checks {
        check.validate().map_err(|why| invalid("Invalid check", why.to_owned()))?;
    }
    for check in &definition.checks {
        if !check.status.is_empty() && CheckStatus::from_name(&check.status).is_none() {
            return Err(ErrorResponse::bad_request(
                "Status for checks must 'passing', 'warning', 'critical'",
            ));
        }
    }
    let unsupported_field =
        if definition.kind.is_empty() { definition.unsupported_field } else { Some("Kind") };
    match unsupported_field {
        Some(field) => Err(ErrorResponse::bad_request(format!(
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
    let mut names = BTreeSet::new();
    let mut has_default = false;
    for port in ports {
        if port.name.trim().is_empty() {
            return Some("Ports.Name cannot be empty".to_owned());
        }
        if port.port <= 0 {
            return Some("Ports.Port must be greater than zero".to_owned());
        }
        if !names.insert(port.name.as_str()) {
            return Some(format!("Ports.Name {:?} has to be unique", port.name));
        }
        if has_default && port.default {
            return Some("Only one port can be marked as default".to_owned());
        }
        has_default |= port.default;
    }
    (!has_default).then(|| "One of the Ports must be marked as Default".to_owned())
}
