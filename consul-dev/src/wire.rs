//! The JSON shapes of nodes, services and checks.
//!
//! The agent and the catalog show the same records differently: an empty `Meta` is `{}` here and `null` there.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::model::{
    CONSUL_VERSION, Check, CheckStatus, Locality, NamedPort, Node, Service, TaggedAddress, Weights,
};
use crate::store::{Catalog, Indexed};

type Addresses = BTreeMap<String, TaggedAddress>;

/// A node in health and catalog reads.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeShape {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    datacenter: String,
    tagged_addresses: BTreeMap<&'static str, String>,
    meta: BTreeMap<&'static str, &'static str>,
    create_index: u64,
    modify_index: u64,
}

impl NodeShape {
    pub(crate) fn new(node: &Node, catalog: &Catalog) -> Self {
        Self {
            id: node.id.clone(),
            node: node.name.clone(),
            address: node.address.clone(),
            datacenter: node.datacenter.clone(),
            tagged_addresses: tagged_addresses(node),
            meta: node_meta(),
            create_index: catalog.node_create,
            modify_index: catalog.node_create,
        }
    }
}

/// The addresses of the node by the kind of caller.
fn tagged_addresses(node: &Node) -> BTreeMap<&'static str, String> {
    let family = if node.address.contains(':') { ["lan_ipv6", "wan_ipv6"] } else { ["lan_ipv4", "wan_ipv4"] };
    ["lan", "wan"].into_iter().chain(family).map(|tag| (tag, node.address.clone())).collect()
}

/// The metadata of the node; clients read the version here.
pub(crate) fn node_meta() -> BTreeMap<&'static str, &'static str> {
    [("consul-network-segment", ""), ("consul-version", CONSUL_VERSION)].into()
}

/// A part of a Connect proxy's configuration, with defaults only.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ProxyShape {
    mode: &'static str,
    mesh_gateway: EmptyObject,
    expose: EmptyObject,
}

/// `{}`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct EmptyObject {}

/// The Connect settings of a service.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ConnectShape {
    #[serde(skip_serializing_if = "is_false")]
    native: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A service in `/v1/health/service` and `/v1/catalog/node`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthService {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    service: String,
    tags: Vec<String>,
    address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: Addresses,
    meta: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "is_zero")]
    port: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<NamedPort>,
    #[serde(skip_serializing_if = "String::is_empty")]
    socket_path: String,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<Locality>,
    proxy: ProxyShape,
    connect: ConnectShape,
    peer_name: &'static str,
    create_index: u64,
    modify_index: u64,
}

impl From<&Indexed<Service>> for HealthService {
    fn from(indexed: &Indexed<Service>) -> Self {
        let service = indexed.value.clone();
        Self {
            port: service.default_port(),
            id: service.id,
            service: service.name,
            tags: service.tags.unwrap_or_default(),
            address: service.address,
            tagged_addresses: service.tagged_addresses,
            meta: service.meta,
            ports: service.ports,
            socket_path: service.socket_path,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            locality: service.locality,
            proxy: ProxyShape::default(),
            connect: ConnectShape { native: service.native },
            peer_name: "",
            create_index: indexed.create,
            modify_index: indexed.modify,
        }
    }
}

impl HealthService {
    /// Returns whether it has that tag, ignoring case.
    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
    }
}

/// A service with its node in `/v1/catalog/service`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CatalogService {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    datacenter: String,
    tagged_addresses: BTreeMap<&'static str, String>,
    node_meta: BTreeMap<&'static str, &'static str>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
    service_tags: Vec<String>,
    service_address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: Addresses,
    service_weights: Weights,
    service_meta: BTreeMap<String, String>,
    service_port: i64,
    service_ports: Option<Vec<NamedPort>>,
    service_socket_path: String,
    service_enable_tag_override: bool,
    service_proxy: ProxyShape,
    service_connect: ConnectShape,
    service_locality: Option<Locality>,
    create_index: u64,
    modify_index: u64,
}

impl CatalogService {
    pub(crate) fn new(node: &Node, indexed: &Indexed<Service>) -> Self {
        let service = indexed.value.clone();
        Self {
            id: node.id.clone(),
            node: node.name.clone(),
            address: node.address.clone(),
            datacenter: node.datacenter.clone(),
            tagged_addresses: tagged_addresses(node),
            node_meta: node_meta(),
            service_kind: "",
            service_port: service.default_port(),
            service_id: service.id,
            service_name: service.name,
            service_tags: service.tags.unwrap_or_default(),
            service_address: service.address,
            service_tagged_addresses: service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta.unwrap_or_default(),
            service_ports: (!service.ports.is_empty()).then_some(service.ports),
            service_socket_path: service.socket_path,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: ProxyShape::default(),
            service_connect: ConnectShape { native: service.native },
            service_locality: service.locality,
            create_index: indexed.create,
            modify_index: indexed.modify,
        }
    }
}

impl CatalogService {
    /// Returns whether it has that tag, ignoring case.
    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        self.service_tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
    }
}

/// A service in the agent's own endpoints.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentService {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    port: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<NamedPort>,
    address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    socket_path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: Addresses,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_hash: Option<String>,
    #[serde(skip_serializing_if = "is_not_native")]
    connect: ConnectShape,
    datacenter: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<AgentLocality>,
}

/// A locality in the agent's own endpoints, with its empty parts.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct AgentLocality {
    region: String,
    zone: String,
}

fn is_not_native(connect: &ConnectShape) -> bool {
    !connect.native
}

impl AgentService {
    pub(crate) fn new(service: &Service, node: &Node) -> Self {
        let service = service.clone();
        Self {
            port: service.default_port(),
            id: service.id,
            service: service.name,
            tags: service.tags.unwrap_or_default(),
            meta: service.meta.unwrap_or_default(),
            ports: service.ports,
            address: service.address,
            socket_path: service.socket_path,
            tagged_addresses: service.tagged_addresses,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
            connect: ConnectShape { native: service.native },
            datacenter: node.datacenter.clone(),
            locality: service.locality.map(|Locality { region, zone }| AgentLocality { region, zone }),
        }
    }

    /// A hash of the definition: the same for the same definition, in up to 16 hexadecimal digits. Checks and the
    /// locality are left out, as in Consul; the hash values differ from Consul's.
    pub(crate) fn hash(&self) -> String {
        let hashed = Self { locality: None, content_hash: None, ..self.clone() };
        let bytes = serde_json::to_vec(&hashed).unwrap_or_default();
        let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{fnv:x}")
    }
}

/// A check in `/v1/agent/checks` and the catalog.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckShape {
    node: String,
    #[serde(rename = "CheckID")]
    pub(crate) check_id: String,
    name: String,
    pub(crate) status: CheckStatus,
    notes: String,
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
    service_tags: Vec<String>,
    r#type: &'static str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: EmptyObject,
    create_index: u64,
    modify_index: u64,
}

impl CheckShape {
    /// A check of the agent, which has no indexes.
    pub(crate) fn local(check: &Check, node: &Node) -> Self {
        Self::new(check, node, 0, 0)
    }

    pub(crate) fn indexed(indexed: &Indexed<Check>, node: &Node) -> Self {
        Self::new(&indexed.value, node, indexed.create, indexed.modify)
    }

    fn new(check: &Check, node: &Node, create_index: u64, modify_index: u64) -> Self {
        let check = check.clone();
        Self {
            node: node.name.clone(),
            check_id: check.id,
            name: check.name,
            status: check.status,
            notes: check.notes,
            output: check.output,
            service_id: check.service_id,
            service_name: check.service_name,
            service_tags: check.service_tags.unwrap_or_default(),
            r#type: check.kind,
            interval: check.interval,
            timeout: check.timeout,
            exposed_port: 0,
            definition: EmptyObject {},
            create_index,
            modify_index,
        }
    }
}

/// Pairs as a JSON object that keeps their order.
#[derive(Debug)]
pub(crate) struct Object<V>(pub(crate) Vec<(String, V)>);

impl<V: Serialize> Serialize for Object<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
