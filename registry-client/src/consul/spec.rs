//! The spec of a registration, validated before it is sent: an agent validates
//! little.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{CheckStatus, Error, GoDuration, path};
use crate::instance::{Address, Locality, ServiceName};

/// The largest threshold of a check, in probes in a row.
pub(crate) const MAX_THRESHOLD: u8 = 10;

/// The spec of an instance's registration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceSpec {
    /// The id, unique on the agent; a registration with the same id overwrites
    /// silently. See [`instance_id`].
    pub id: String,
    /// The name of the service.
    pub name: ServiceName,
    /// The address for calls.
    pub address: Address,
    /// Labels.
    pub tags: Vec<String>,
    /// Key-value pairs: at most 64, keys of 1 to 128 characters `A-Z a-z 0-9 -
    /// _` not beginning with `consul-`, values of at most 512 bytes.
    pub meta: BTreeMap<String, String>,
    /// The shares of the load.
    pub weights: Weights,
    /// The locality. Sent to Consul 1.16 and newer only, whose servers ignore a
    /// changed one unless the entry differs in something else, such as a meta
    /// pair.
    pub locality: Option<Locality>,
    /// The health check of the agent.
    pub check: CheckSpec,
    /// The time in critical state after which the agent deregisters the
    /// instance, at least a minute; `None` for never. A minute unless set,
    /// which cleans up after a killed process; a live one registers again at
    /// once.
    pub deregister_after: Option<Duration>,
}

/// The weights of an instance. Both are always sent: a missing one would mean
/// 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Weights {
    /// The weight while every check passes; 1 to 65,535.
    pub passing: u16,
    /// The weight while a check warns; 0 takes the instance out then.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// The health check of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckSpec {
    /// The agent calls `grpc.health.v1.Health/Check`; created by
    /// [`CheckSpec::grpc`].
    Grpc {
        /// The target `host:port/service`; the service is optional.
        target: String,
        /// The interval of probes, at least a second. The first probe comes at
        /// a random point of the first interval.
        interval: Duration,
        /// The timeout of a probe.
        timeout: Duration,
        /// The status until the first probe.
        initial: CheckStatus,
        /// The probes in a row that must succeed before the check passes, 1 to
        /// 10. The first probe after a registration always decides alone. Sent
        /// only if above 1, to Consul 1.7 and newer.
        success_before_passing: u8,
        /// The probes in a row that must fail before the check is critical,
        /// like `success_before_passing`.
        failures_before_critical: u8,
    },
    /// The instance sends heartbeats, every third of the TTL.
    Ttl {
        /// The TTL of a heartbeat, at least 30 s: an agent without a leader
        /// takes up to 19 s to process one.
        ttl: Duration,
        /// The status until the first heartbeat.
        initial: CheckStatus,
    },
}

impl CheckSpec {
    /// A gRPC check of `service` (empty for the whole server) at `address`:
    /// every second, so that a new instance, which starts critical, serves
    /// within a second of being ready; with a timeout of 1.5 s, so that a hung
    /// process is detected within 2.5 s; one probe decides.
    ///
    /// A probe that begins while packets are lost has its SYN sent again after
    /// 1 s (RFC 6298), and 1.5 s let that one succeed. With a shorter timeout,
    /// or one between that SYN and the next at 3 s, only the next probe would
    /// find the instance again: up to 2 s after the network recovers.
    #[must_use]
    pub fn grpc(address: &Address, service: &str) -> Self {
        let slash = if service.is_empty() { "" } else { "/" };
        Self::Grpc {
            target: format!("{address}{slash}{service}"),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(1500),
            initial: CheckStatus::Critical,
            success_before_passing: 1,
            failures_before_critical: 1,
        }
    }

    /// A TTL check of 30 s that starts critical and gets its first heartbeat at
    /// once.
    #[must_use]
    pub fn ttl() -> Self {
        Self::Ttl { ttl: Duration::from_secs(30), initial: CheckStatus::Critical }
    }

    /// The name of the type in Consul.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Grpc { .. } => "grpc",
            Self::Ttl { .. } => "ttl",
        }
    }
}

/// The id of an instance that is the same whenever it is started at the same
/// address: `name-host-port`.
#[must_use]
pub fn instance_id(name: &ServiceName, address: &Address) -> String {
    format!("{name}-{}-{}", address.host(), address.port())
}

impl ServiceSpec {
    /// An instance of `name` at `address`, with the id of [`instance_id`], no
    /// tags, no meta, weights of 1 and no locality.
    #[must_use]
    pub fn new(name: ServiceName, address: Address, check: CheckSpec) -> Self {
        Self {
            id: instance_id(&name, &address),
            name,
            address,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weights: Weights::default(),
            locality: None,
            check,
            deregister_after: Some(Duration::from_secs(60)),
        }
    }

    /// The id of the check. It contains the type, because a check that changes
    /// its type under one id leaves the old prober running.
    #[must_use]
    pub fn check_id(&self) -> String {
        format!("{}:{}", self.check_id_stem(), self.check.kind())
    }

    /// The prefix of the ids of all checks of this instance.
    pub(super) fn check_id_stem(&self) -> String {
        format!("service:{}", self.id)
    }

    /// Checks that Consul accepts the spec as it is meant.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first rule that is violated.
    pub fn validate(&self) -> Result<(), Error> {
        let id = &self.id;
        let invalid =
            |why: String| Err(Error::Invalid(format!("instance `{id}` cannot be registered: {why}")));
        path::of("agent/service", id)?;
        if id.len() > 256 || id.chars().any(char::is_control) {
            return invalid("its id is longer than 256 bytes or holds control characters".to_owned());
        }
        if self.weights.passing == 0 {
            return invalid("its weight is 0; the least is 1".to_owned());
        }
        if self.tags.iter().any(|tag| tag.is_empty() || tag.chars().any(char::is_control)) {
            return invalid("a tag is empty or holds control characters".to_owned());
        }
        if self.meta.len() > 64 {
            return invalid(format!("it has {} meta pairs, the most is 64", self.meta.len()));
        }
        for (key, value) in &self.meta {
            if let Some(why) = meta_fault(key, value) {
                return invalid(format!("meta `{key}` {why}"));
            }
        }
        if self.deregister_after.is_some_and(|after| after < Duration::from_secs(60)) {
            return invalid("deregister_after is less than a minute, the least Consul knows".to_owned());
        }
        match check_fault(&self.check) {
            Some(why) => invalid(why),
            None => Ok(()),
        }
    }

    /// The spec with this initial status of the check.
    #[must_use]
    pub(super) fn starting_as(&self, status: CheckStatus) -> Self {
        let mut spec = self.clone();
        match &mut spec.check {
            CheckSpec::Grpc { initial, .. } | CheckSpec::Ttl { initial, .. } => *initial = status,
        }
        spec
    }

    /// The body of the registration.
    pub(super) fn wire(&self) -> impl Serialize + '_ {
        let go = |duration: Duration| Some(GoDuration(duration).to_string());
        let mut check = WireCheck {
            check_id: self.check_id(),
            name: format!("{} of {}", self.check.kind(), self.id),
            deregister_critical_service_after: self.deregister_after.and_then(go),
            ..WireCheck::default()
        };
        match &self.check {
            CheckSpec::Grpc {
                target,
                interval,
                timeout,
                initial,
                success_before_passing,
                failures_before_critical,
            } => {
                let above_default = |threshold: u8| Some(threshold).filter(|threshold| *threshold > 1);
                check.grpc = Some(target);
                (check.interval, check.timeout, check.status) = (go(*interval), go(*timeout), *initial);
                check.success_before_passing = above_default(*success_before_passing);
                check.failures_before_critical = above_default(*failures_before_critical);
            }
            CheckSpec::Ttl { ttl, initial } => (check.ttl, check.status) = (go(*ttl), *initial),
        }
        WireService {
            id: &self.id,
            name: self.name.as_str(),
            address: self.address.host(),
            port: self.address.port(),
            tags: &self.tags,
            meta: &self.meta,
            weights: self.weights,
            locality: self.locality.as_ref().map(|at| WireLocality { region: at.region(), zone: at.zone() }),
            checks: [check],
        }
    }
}

fn meta_fault(key: &str, value: &str) -> Option<String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if key.is_empty() || key.len() > 128 || !key.chars().all(sound) {
        Some("has a key that is not 1 to 128 characters of A-Z a-z 0-9 - _".to_owned())
    } else if key.starts_with("consul-") {
        Some("has a key that begins with `consul-`, which is Consul's own".to_owned())
    } else if value.len() > 512 {
        Some(format!("has a value of {} bytes, the most is 512", value.len()))
    } else {
        None
    }
}

fn check_fault(check: &CheckSpec) -> Option<String> {
    match check {
        CheckSpec::Grpc { target, .. }
            if target.split('/').next().is_none_or(|at| at.parse::<Address>().is_err()) =>
        {
            Some(format!("`{target}` is not host:port/service, which a gRPC check needs"))
        }
        CheckSpec::Grpc { interval, .. } if *interval < Duration::from_secs(1) => Some(format!(
            "its check's interval of {interval:?} is less than a second, the least Consul knows"
        )),
        CheckSpec::Grpc { timeout, .. } if timeout.is_zero() => Some("its check's timeout is 0".to_owned()),
        CheckSpec::Grpc { success_before_passing: n, .. } if !(1..=MAX_THRESHOLD).contains(n) => {
            Some(format!("its check's success_before_passing of {n} is not 1 to {MAX_THRESHOLD}"))
        }
        CheckSpec::Grpc { failures_before_critical: n, .. } if !(1..=MAX_THRESHOLD).contains(n) => {
            Some(format!("its check's failures_before_critical of {n} is not 1 to {MAX_THRESHOLD}"))
        }
        CheckSpec::Ttl { ttl, .. } if *ttl < Duration::from_secs(30) => {
            Some(format!("its TTL of {ttl:?} is less than 30 s, which an agent without a leader outlasts"))
        }
        CheckSpec::Grpc { .. } | CheckSpec::Ttl { .. } => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: &'a str,
    port: u16,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    weights: Weights,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<WireLocality<'a>>,
    checks: [WireCheck<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireLocality<'a> {
    region: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireCheck<'a> {
    #[serde(rename = "CheckID")]
    check_id: String,
    name: String,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<&'a str>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    status: CheckStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_before_passing: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures_before_critical: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ServiceSpec {
        let address: Address = "10.0.0.1:5000".parse().unwrap();
        let check = CheckSpec::grpc(&address, "shop.cart.v1.CartService");
        ServiceSpec::new("cart-service".parse().unwrap(), address, check)
    }

    #[test]
    fn a_registration_is_written_as_an_agent_reads_it() {
        let mut spec = spec();
        spec.meta.insert("version".to_owned(), "v1".to_owned());
        assert_eq!(
            serde_json::to_value(spec.wire()).unwrap(),
            serde_json::json!({
                "ID": "cart-service-10.0.0.1-5000", "Name": "cart-service",
                "Address": "10.0.0.1", "Port": 5000, "Tags": [], "Meta": {"version": "v1"},
                "Weights": {"Passing": 1, "Warning": 1},
                "Checks": [{
                    "CheckID": "service:cart-service-10.0.0.1-5000:grpc",
                    "Name": "grpc of cart-service-10.0.0.1-5000",
                    "GRPC": "10.0.0.1:5000/shop.cart.v1.CartService",
                    "Interval": "1s", "Timeout": "1500ms", "Status": "critical",
                    "DeregisterCriticalServiceAfter": "60s",
                }],
            })
        );
        let CheckSpec::Grpc { success_before_passing, failures_before_critical, .. } = &mut spec.check else {
            panic!("a gRPC check is expected")
        };
        (*success_before_passing, *failures_before_critical) = (2, 3);
        spec.locality = Some(Locality::new("eu", "a").unwrap());
        let further = serde_json::to_value(spec.wire()).unwrap();
        assert_eq!(further["Locality"], serde_json::json!({"Region": "eu", "Zone": "a"}));
        let check = &further["Checks"][0];
        assert_eq!(
            (&check["SuccessBeforePassing"], &check["FailuresBeforeCritical"]),
            (&2.into(), &3.into())
        );
        spec.locality = Some(Locality::new("eu", "").unwrap());
        assert_eq!(
            serde_json::to_value(spec.wire()).unwrap()["Locality"],
            serde_json::json!({"Region": "eu"})
        );
        spec.check = CheckSpec::ttl();
        let ttl = serde_json::to_value(spec.wire()).unwrap();
        assert_eq!(ttl["Checks"][0]["TTL"], "30s");
        assert_eq!(ttl["Checks"][0].get("GRPC"), None);
    }

    #[test]
    fn what_consul_would_misread_is_refused_before_it_is_sent() {
        type Spoil = fn(&mut ServiceSpec);
        let cases: [(&str, Spoil); 15] = [
            ("is empty", |s| s.id.clear()),
            ("`..` part", |s| s.id = "a/../b".to_owned()),
            ("256 bytes", |s| s.id = "a".repeat(257)),
            ("weight is 0", |s| s.weights.passing = 0),
            ("tag is empty", |s| s.tags.push(String::new())),
            ("65 meta pairs", |s| s.meta = (0..65).map(|i| (format!("k{i}"), String::new())).collect()),
            ("meta `a b`", |s| drop(s.meta.insert("a b".to_owned(), String::new()))),
            ("Consul's own", |s| drop(s.meta.insert("consul-x".to_owned(), String::new()))),
            ("513 bytes", |s| drop(s.meta.insert("k".to_owned(), "v".repeat(513)))),
            ("less than a minute", |s| s.deregister_after = Some(Duration::from_secs(59))),
            ("not host:port/service", |s| {
                let CheckSpec::Grpc { target, .. } = &mut s.check else { return };
                *target = "nowhere".to_owned();
            }),
            ("less than a second", |s| {
                let CheckSpec::Grpc { interval, .. } = &mut s.check else { return };
                *interval = Duration::from_millis(999);
            }),
            ("success_before_passing of 0 is not 1 to 10", |s| {
                let CheckSpec::Grpc { success_before_passing, .. } = &mut s.check else { return };
                *success_before_passing = 0;
            }),
            ("failures_before_critical of 11 is not 1 to 10", |s| {
                let CheckSpec::Grpc { failures_before_critical, .. } = &mut s.check else { return };
                *failures_before_critical = 11;
            }),
            ("less than 30 s", |s| {
                s.check = CheckSpec::Ttl { ttl: Duration::from_secs(29), initial: CheckStatus::Critical };
            }),
        ];
        spec().validate().unwrap();
        for (words, spoil) in cases {
            let mut spec = spec();
            spoil(&mut spec);
            let error = spec.validate().unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
