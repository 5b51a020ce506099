//! Service names, instances and their addresses.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

/// The name under which a service's instances are registered, for example
/// `cart-service`: 1 to 128 characters of `A-Z a-z 0-9 - _ .`, beginning and
/// ending with a letter or a digit.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let sound = text.len() <= 128
            && text.chars().all(inner)
            && edge(text.chars().next())
            && edge(text.chars().next_back());
        if sound {
            Ok(Self(text.into()))
        } else {
            Err(ParseError(format!(
                "service name `{text}` is not 1 to 128 characters of A-Z a-z 0-9 - _ . that begin and end with a letter or digit"
            )))
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of one registered process of a service. The state of an instance is
/// kept under this id across registry updates.
///
/// In Consul an id is unique on its agent only, so processes are distinguished
/// by address. The id is the registered one where that contains the address
/// (`cart-service-10.0.0.7-50051`, as [`Server`](crate::server::Server)
/// registers), and the registered one followed by the address
/// (`web@10.0.0.7:8080`) everywhere else: it depends on the entry alone, not on
/// other entries.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// An id of any text: the registry decides about its form.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The id of the process that is registered as `registered` of service
    /// `service` at `address`.
    pub(crate) fn at(service: &str, registered: &str, address: &Address) -> Self {
        let shown = address.to_string();
        let says_address =
            registered == shown || registered == format!("{service}-{}-{}", address.host(), address.port());
        if says_address { Self::new(registered) } else { Self::new(&format!("{registered}@{shown}")) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id under which the instance is registered: without an address that
    /// was appended.
    #[must_use]
    pub fn registered(&self) -> &str {
        match self.0.rsplit_once('@') {
            Some((registered, at)) if at.parse::<Address>().is_ok() => registered,
            _ => &self.0,
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of an instance: an IP address or a host name, and a port that is
/// not 0. A host name is looked up for every connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

impl Address {
    /// An address of a host and a port. An IPv6 host may be in brackets.
    ///
    /// # Errors
    /// When the host is empty, unspecified (`0.0.0.0`, `::`) or has characters
    /// that no host name has, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, ParseError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let named = !bare.is_empty()
            && bare.len() <= 253
            && bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        let dialable = match bare.parse::<std::net::IpAddr>() {
            Ok(ip) => !ip.is_unspecified(),
            Err(_) => named,
        };
        if !dialable {
            return Err(ParseError(format!("`{host}` is not a host that can be dialled")));
        }
        if port == 0 {
            return Err(ParseError(format!("port 0 of `{host}` cannot be dialled")));
        }
        Ok(Self { host: bare.into(), port })
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError(format!("address `{text}` is not HOST:PORT"));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        Self::new(host, port.parse().map_err(|_| bad())?)
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(socket: std::net::SocketAddr) -> Self {
        Self { host: socket.ip().to_string().into(), port: socket.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The health of an instance, by the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InstanceHealth {
    /// Every check passes.
    Passing,
    /// A check warns; the instance is used, with its warning weight.
    Warning,
    /// A check fails; the instance is used only when no other is left.
    Critical,
    /// An operator or the instance itself took it out; it is never used.
    Maintenance,
}

/// The most bytes of the name of a region or a zone.
const MAX_LOCALITY_NAME: usize = 128;

/// The locality of an instance: a region and, where it is known, a zone within
/// it, as in Consul's `Locality` from 1.16 on.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    region: Arc<str>,
    /// Empty where it is not known.
    zone: Arc<str>,
}

impl Locality {
    /// The locality of a zone, or with an empty `zone` that of a whole region.
    ///
    /// # Errors
    /// When `region` is empty, because a zone is part of a region only, or when
    /// one of them is longer than 128 bytes or holds control characters.
    pub fn new(region: &str, zone: &str) -> Result<Self, ParseError> {
        for (what, name) in [("region", region), ("zone", zone)] {
            if name.len() > MAX_LOCALITY_NAME || name.chars().any(char::is_control) {
                return Err(ParseError(format!(
                    "{what} `{}` is longer than {MAX_LOCALITY_NAME} bytes or holds control characters",
                    name.escape_debug()
                )));
            }
        }
        if region.is_empty() {
            return Err(ParseError(match zone {
                "" => "a locality needs a region".to_owned(),
                zone => format!("zone `{zone}` needs the region that it is in"),
            }));
        }
        Ok(Self { region: region.into(), zone: zone.into() })
    }

    /// The region, for example `eu-west-1`.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The zone within the region, for example `eu-west-1a`; `None` where it
    /// is not known.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        Some(&*self.zone).filter(|zone| !zone.is_empty())
    }
}

impl fmt::Display for Locality {
    /// `region`, or `region/zone`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        self.zone().map_or(Ok(()), |zone| write!(f, "/{zone}"))
    }
}

/// The key of [`Instance::meta`] under which a server registers the least time
/// between two HTTP/2 pings that it accepts, with or without calls in flight,
/// for example `100ms`. Without it a channel keeps to what every gRPC server
/// accepts by default.
pub const KEEPALIVE_MIN: &str = "keepalive-min";

/// The key of [`Instance::meta`] under which a server registers the name that
/// its health service knows, which is its registered name. A channel checks
/// that name, so that another program at the address of an instance that is
/// gone is not taken for it.
pub const HEALTH_SERVICE: &str = "health-service";

/// The key of [`Instance::meta`] under which a server registers its locality as
/// [`Locality`] is written, `region/zone`. Consul has a field for it, but its
/// servers ignore a change of that field alone, which happens when a process is
/// killed and started with another locality at the same address.
pub const LOCALITY: &str = "locality";

/// The key of [`Instance::meta`] under which a server registers the port at
/// which its process answers `/metrics` on the registered host. Only where
/// others can reach it there: [`MeshBuilder::metrics_page`] is given, and
/// [`Mesh::admin`] listens on every interface or on that very host.
///
/// Prometheus finds the instances by its `consul_sd_configs`, and their
/// metrics by this:
///
/// ```yaml
/// relabel_configs:
///   - source_labels: [__meta_consul_service_metadata_metrics_port]
///     regex: .+
///     action: keep
///   - source_labels: [__meta_consul_service_address, __meta_consul_service_metadata_metrics_port]
///     separator: ":"
///     target_label: __address__
/// ```
///
/// [`Mesh::admin`]: crate::Mesh::admin
/// [`MeshBuilder::metrics_page`]: crate::MeshBuilder::metrics_page
pub const METRICS_PORT: &str = "metrics_port";

/// One registered process of a service, as the registry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// Unique within its service.
    pub id: InstanceId,
    /// The address that it listens on.
    pub address: Address,
    /// The share of the load relative to the others, 1 to 65,535.
    pub weight: u16,
    /// The health, by the registry.
    pub health: InstanceHealth,
    /// The reason for `health`, empty when it passes.
    pub reason: String,
    /// Labels.
    pub tags: Vec<String>,
    /// Key-value pairs, such as `version`.
    pub meta: BTreeMap<String, String>,
    /// The locality, if it is registered.
    pub locality: Option<Locality>,
}

impl Instance {
    /// A passing instance of weight 1, without tags, meta and locality.
    #[must_use]
    pub fn new(id: &str, address: Address) -> Self {
        Self {
            id: InstanceId::new(id),
            address,
            weight: 1,
            health: InstanceHealth::Passing,
            reason: String::new(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            locality: None,
        }
    }
}

/// A text that could not be parsed, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_holds_only_what_a_registry_and_a_path_can_hold() {
        for good in ["a", "cart-service", "Cart.v1_2"] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused() {
        for bad in
            ["", "host", ":80", "0.0.0.0:80", "[::]:80", "host:0", "host:70000", "a b:80", "http://x:80"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instances_id_says_its_address_once_and_depends_on_nothing_else() {
        for (registered, at, id) in [
            ("web-10.0.0.1-80", "10.0.0.1:80", "web-10.0.0.1-80"),
            ("web-fe80::1-80", "[fe80::1]:80", "web-fe80::1-80"),
            ("10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:80"),
            ("web", "10.0.0.1:80", "web@10.0.0.1:80"),
            ("web", "[fe80::1]:80", "web@[fe80::1]:80"),
            ("web-10.0.0.1-80", "10.0.0.1:81", "web-10.0.0.1-80@10.0.0.1:81"),
            ("cart-10.0.0.1-80", "10.0.0.1:80", "cart-10.0.0.1-80@10.0.0.1:80"),
            ("a@b", "10.0.0.1:80", "a@b@10.0.0.1:80"),
        ] {
            let made = InstanceId::at("web", registered, &at.parse().unwrap());
            assert_eq!((made.as_str(), made.registered()), (id, registered));
        }
        assert_eq!(InstanceId::new("a@b").registered(), "a@b");
    }

    #[test]
    fn a_zone_is_part_of_a_region() {
        let whole = Locality::new("eu-west-1", "").unwrap();
        assert_eq!(
            (whole.region(), whole.zone(), whole.to_string()),
            ("eu-west-1", None, "eu-west-1".into())
        );
        let zone = Locality::new("eu-west-1", "a").unwrap();
        assert_eq!((zone.zone(), zone.to_string()), (Some("a"), "eu-west-1/a".into()));
        for (region, zone, words) in [
            ("", "", "a locality needs a region"),
            ("", "a", "zone `a` needs the region"),
            ("eu\n", "", "region `eu\\n` is longer"),
            ("eu", &"a".repeat(129), "longer than 128 bytes"),
        ] {
            let why = Locality::new(region, zone).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn an_ipv6_address_is_written_in_brackets() {
        let address: Address = "[::1]:80".parse().unwrap();
        assert_eq!((address.host(), address.port()), ("::1", 80));
        assert_eq!(address.to_string(), "[::1]:80");
    }
}
