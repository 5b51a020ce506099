//! The body of a registration.

use std::collections::BTreeMap;

use crate::checks::{CheckContext, CheckSpec};
use crate::decode::{DecodeError, Field, Json, members, object, read_into};
use crate::model::{Locality, NamedPort, Service, TaggedAddress, Weights};

/// The Go type of a registration in the error texts of a real agent.
const GO_TYPE_NAME: &str = "struct { EnableTagOverrideSnake bool \"json:\\\"enable_tag_override\\\"\"; TaggedAddressesSnake map[string]structs.ServiceAddress \"json:\\\"tagged_addresses\\\"\"; *structs.Alias }";

/// A registration that is decoded but not yet validated.
#[derive(Debug, Default)]
pub(super) struct Definition {
    pub(super) service: Service,
    pub(super) kind: String,
    /// The weights, if the request had any.
    pub(super) weights: Option<Weights>,
    /// `Check` first, then `Checks`; an empty `Check` is none.
    pub(super) checks: Vec<CheckSpec>,
    /// The name of a field that this agent does not support.
    pub(super) unsupported_field: Option<&'static str>,
}

impl Definition {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut definition = Self::default();
        let (mut check, mut checks) = (CheckSpec::default(), Vec::new());
        for (key, value) in object(body, GO_TYPE_NAME)? {
            match key.to_ascii_lowercase().as_str() {
                "check" if value != Json::Null => {
                    let at = ".Alias.Check";
                    check =
                        CheckSpec::read(nested(value, at, "structs.CheckType")?, at, CheckContext::Service)?;
                }
                "checks" if value != Json::Null => checks = read_checks(value)?,
                "check" | "checks" => {}
                _ => definition.set(&key, value)?,
            }
        }
        if !check.is_empty() {
            definition.checks.push(check);
        }
        definition.checks.append(&mut checks);
        definition.service.weights = definition.weights.unwrap_or_default();
        Ok(definition)
    }

    fn set(&mut self, key: &str, value: Json) -> Result<(), DecodeError> {
        let service = &mut self.service;
        let mut token = String::new();
        match key.to_ascii_lowercase().as_str() {
            "kind" => read_into(&mut self.kind, value, ".Alias.Kind"),
            "id" => read_into(&mut service.id, value, ".Alias.ID"),
            "name" => read_into(&mut service.name, value, ".Alias.Name"),
            "tags" => read_into(&mut service.tags, value, ".Alias.Tags"),
            "address" => read_into(&mut service.address, value, ".Alias.Address"),
            "taggedaddresses" | "tagged_addresses" => {
                read_into(&mut service.tagged_addresses, value, ".Alias.TaggedAddresses")
            }
            "meta" => read_into(&mut service.meta, value, ".Alias.Meta"),
            "port" => read_into(&mut service.port, value, ".Alias.Port"),
            "ports" => read_into(&mut service.ports, value, ".Alias.Ports"),
            "socketpath" => read_into(&mut service.socket_path, value, ".Alias.SocketPath"),
            "weights" => read_into(&mut self.weights, value, ".Alias.Weights"),
            "token" => read_into(&mut token, value, ".Alias.Token"),
            "enabletagoverride" | "enable_tag_override" => {
                read_into(&mut service.enable_tag_override, value, ".Alias.EnableTagOverride")
            }
            "locality" => read_into(&mut service.locality, value, ".Alias.Locality"),
            "connect" => self.read_connect(value),
            "proxy" => {
                if value != Json::Null {
                    self.unsupported_field = Some("Proxy");
                }
                Ok(())
            }
            _ => Err(DecodeError::unknown_field(key)),
        }
    }

    fn read_connect(&mut self, value: Json) -> Result<(), DecodeError> {
        for (key, value) in nested(value, ".Alias.Connect", "structs.ServiceConnect")? {
            match key.to_ascii_lowercase().as_str() {
                "native" => read_into(&mut self.service.native, value, ".Alias.Connect.Alias.Native")?,
                "sidecarservice" | "sidecar_service" => {
                    if value != Json::Null {
                        self.unsupported_field = Some("Connect.SidecarService");
                    }
                }
                "peermeta" => {}
                _ => return Err(DecodeError::unknown_field(&key)),
            }
        }
        Ok(())
    }
}

fn nested(value: Json, at: &str, type_name: &str) -> Result<Vec<(String, Json)>, DecodeError> {
    match value {
        Json::Object(_) | Json::Null => members(value, type_name),
        other => Err(DecodeError::mismatch(&other, at, type_name)),
    }
}

fn read_checks(value: Json) -> Result<Vec<CheckSpec>, DecodeError> {
    let at = ".Alias.Checks";
    let Json::Array(items) = value else {
        return Err(DecodeError::mismatch(&value, at, "structs.CheckTypes"));
    };
    let read = |item| CheckSpec::read(nested(item, at, "structs.CheckType")?, at, CheckContext::Service);
    items.into_iter().map(read).collect()
}

impl Field for Weights {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let mut weights = Self { passing: 0, warning: 0 };
        for (key, value) in nested(value, at, "structs.Weights")? {
            match key.to_ascii_lowercase().as_str() {
                "passing" => read_into(&mut weights.passing, value, &format!("Weights{at}.Passing"))?,
                "warning" => read_into(&mut weights.warning, value, &format!("Weights{at}.Warning"))?,
                _ => return Err(DecodeError::unknown_field(&key)),
            }
        }
        Ok(weights)
    }
}

impl Field for Locality {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let mut locality = Self::default();
        for (key, value) in nested(value, at, "structs.Locality")? {
            match key.to_ascii_lowercase().as_str() {
                "region" => read_into(&mut locality.region, value, &format!("Locality{at}.Region"))?,
                "zone" => read_into(&mut locality.zone, value, &format!("Locality{at}.Zone"))?,
                _ => return Err(DecodeError::unknown_field(&key)),
            }
        }
        Ok(locality)
    }
}

impl Field for TaggedAddress {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let mut address = Self::default();
        for (key, value) in nested(value, at, "structs.ServiceAddress")? {
            match key.to_ascii_lowercase().as_str() {
                "address" => read_into(&mut address.address, value, &format!("ServiceAddress{at}.Address"))?,
                "port" => read_into(&mut address.port, value, &format!("ServiceAddress{at}.Port"))?,
                _ => return Err(DecodeError::unknown_field(&key)),
            }
        }
        Ok(address)
    }
}

impl Field for BTreeMap<String, TaggedAddress> {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let Json::Object(members) = value else {
            return Err(DecodeError::mismatch(&value, at, "map[string]structs.ServiceAddress"));
        };
        let read = |(tag, value)| Ok((tag, Option::<TaggedAddress>::read(value, at)?.unwrap_or_default()));
        members.into_iter().map(read).collect()
    }
}

impl Field for NamedPort {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let mut port = Self::default();
        for (key, value) in nested(value, at, "structs.ServicePort")? {
            match key.to_ascii_lowercase().as_str() {
                "name" => read_into(&mut port.name, value, &format!("ServicePort{at}.Name"))?,
                "port" => read_into(&mut port.port, value, &format!("ServicePort{at}.Port"))?,
                "default" => read_into(&mut port.default, value, &format!("ServicePort{at}.Default"))?,
                _ => return Err(DecodeError::unknown_field(&key)),
            }
        }
        Ok(port)
    }
}

impl Field for Vec<NamedPort> {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let Json::Array(items) = value else {
            return Err(DecodeError::mismatch(&value, at, "structs.ServicePorts"));
        };
        items.into_iter().map(|item| NamedPort::read(item, at)).collect()
    }
}
