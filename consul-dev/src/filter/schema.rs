//! The fields of filterable records.

/// The filterable fields, with `*` for any key of a map.
pub(crate) type Schema = &'static [(&'static str, FieldKind)];

/// The type of a field, which determines its operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Text,
    Int,
    Bool,
    /// A list of texts.
    List,
    /// Texts or structures by their keys.
    Map,
    /// A structure: only its fields are filterable.
    Struct,
    /// A list of structures: it matches if a field of any of them does.
    Structs,
}

use FieldKind::{Bool, Int, List, Map, Struct, Structs, Text};

/// Fields of an instance in `/v1/health/service`.
pub(crate) const INSTANCE: Schema = &[
    ("Node", Struct),
    ("Node.ID", Text),
    ("Node.Node", Text),
    ("Node.Address", Text),
    ("Node.Datacenter", Text),
    ("Node.TaggedAddresses", Map),
    ("Node.TaggedAddresses.*", Text),
    ("Node.Meta", Map),
    ("Node.Meta.*", Text),
    ("Node.PeerName", Text),
    ("Service", Struct),
    ("Service.Kind", Text),
    ("Service.ID", Text),
    ("Service.Service", Text),
    ("Service.Tags", List),
    ("Service.Address", Text),
    ("Service.TaggedAddresses", Map),
    ("Service.TaggedAddresses.*", Struct),
    ("Service.TaggedAddresses.*.Address", Text),
    ("Service.TaggedAddresses.*.Port", Int),
    ("Service.Meta", Map),
    ("Service.Meta.*", Text),
    ("Service.Port", Int),
    ("Service.SocketPath", Text),
    ("Service.Weights", Struct),
    ("Service.Weights.Passing", Int),
    ("Service.Weights.Warning", Int),
    ("Service.EnableTagOverride", Bool),
    ("Service.Proxy", Struct),
    ("Service.Proxy.Mode", Text),
    ("Service.Connect", Struct),
    ("Service.Connect.Native", Bool),
    ("Service.PeerName", Text),
    ("Checks", Structs),
    ("Checks.Node", Text),
    ("Checks.CheckID", Text),
    ("Checks.Name", Text),
    ("Checks.Status", Text),
    ("Checks.Notes", Text),
    ("Checks.Output", Text),
    ("Checks.ServiceID", Text),
    ("Checks.ServiceName", Text),
    ("Checks.ServiceTags", List),
    ("Checks.Type", Text),
    ("Checks.Interval", Text),
    ("Checks.Timeout", Text),
    ("Checks.ExposedPort", Int),
    ("Checks.PeerName", Text),
];

/// Fields of a check in `/v1/health/checks` and `/v1/agent/checks`.
pub(crate) const CHECK: Schema = &[
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", List),
    ("Type", Text),
    ("Interval", Text),
    ("Timeout", Text),
    ("ExposedPort", Int),
    ("PeerName", Text),
];

/// Fields of a service in `/v1/agent/services`.
pub(crate) const AGENT_SERVICE: Schema = &[
    ("Kind", Text),
    ("ID", Text),
    ("Service", Text),
    ("Tags", List),
    ("Meta", Map),
    ("Meta.*", Text),
    ("Port", Int),
    ("Address", Text),
    ("SocketPath", Text),
    ("TaggedAddresses", Map),
    ("TaggedAddresses.*", Struct),
    ("TaggedAddresses.*.Address", Text),
    ("TaggedAddresses.*.Port", Int),
    ("Weights", Struct),
    ("Weights.Passing", Int),
    ("Weights.Warning", Int),
    ("EnableTagOverride", Bool),
    ("ContentHash", Text),
    ("Connect", Struct),
    ("Connect.Native", Bool),
    ("PeerName", Text),
    ("Datacenter", Text),
];

/// Fields of a service in `/v1/catalog/service`.
pub(crate) const CATALOG_SERVICE: Schema = &[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", Map),
    ("TaggedAddresses.*", Text),
    ("NodeMeta", Map),
    ("NodeMeta.*", Text),
    ("ServiceKind", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", List),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", Map),
    ("ServiceTaggedAddresses.*", Struct),
    ("ServiceTaggedAddresses.*.Address", Text),
    ("ServiceTaggedAddresses.*.Port", Int),
    ("ServiceWeights", Struct),
    ("ServiceWeights.Passing", Int),
    ("ServiceWeights.Warning", Int),
    ("ServiceMeta", Map),
    ("ServiceMeta.*", Text),
    ("ServicePort", Int),
    ("ServiceSocketPath", Text),
    ("ServiceEnableTagOverride", Bool),
    ("ServiceConnect", Struct),
    ("ServiceConnect.Native", Bool),
    ("PeerName", Text),
];

/// Fields of a node in `/v1/catalog/nodes`.
pub(crate) const NODE: Schema = &[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", Map),
    ("TaggedAddresses.*", Text),
    ("Meta", Map),
    ("Meta.*", Text),
    ("PeerName", Text),
];
