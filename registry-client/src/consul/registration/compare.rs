//! The comparison of an agent's state with the spec. Plain values without I/O.

use std::collections::BTreeMap;

use crate::consul::{AgentService, Check, CheckSpec, ServiceSpec};

/// The difference of the entry from the spec, in words.
pub(super) fn entry_mismatch(spec: &ServiceSpec, actual: &AgentService) -> Option<String> {
    if actual.service != spec.name.as_str() {
        return Some(format!("its id is registered for service `{}`", actual.service));
    }
    let at = (actual.address.as_str(), actual.port);
    if at != (spec.address.host(), i64::from(spec.address.port())) {
        // Two processes with the same id would overwrite each other for ever.
        return Some(format!(
            "its id is registered at {}:{}; if another process uses it, give each its own",
            actual.address, actual.port
        ));
    }
    let weights = (actual.weights.passing, actual.weights.warning);
    if weights != (i64::from(spec.weights.passing), i64::from(spec.weights.warning)) {
        return Some(format!("its weights are {} and {}", weights.0, weights.1));
    }
    if sorted(&actual.tags) != sorted(&spec.tags) {
        return Some(format!("its tags are {:?}", actual.tags));
    }
    if actual.meta != spec.meta {
        return Some(format!("its meta is {:?}", actual.meta));
    }
    // An agent before 1.16 has no locality, and an instance without one accepts
    // any.
    if let (Some(actual), Some(expected)) = (&actual.locality, &spec.locality)
        && actual != expected
    {
        return Some(format!("its locality is {actual}"));
    }
    None
}

fn sorted(tags: &[String]) -> Vec<&str> {
    let mut tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    tags.sort_unstable();
    tags
}

/// The result of comparing the agent's checks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CheckComparison {
    /// The difference of the check from the spec, in words.
    pub(super) mismatch: Option<String>,
    /// Checks that an earlier version left behind.
    pub(super) stale: Vec<String>,
    /// The reason of the current maintenance, by an operator or by the
    /// instance.
    pub(super) maintenance: Option<String>,
}

/// Compares the checks of the agent with the spec.
pub(super) fn compare_checks(spec: &ServiceSpec, actual: &BTreeMap<String, Check>) -> CheckComparison {
    let id = spec.check_id();
    let mismatch = match actual.get(&id) {
        None => Some("its check is gone".to_owned()),
        Some(check) => check_mismatch(spec, check),
    };
    let stem = spec.check_id_stem();
    let ours =
        |other: &str| other.strip_prefix(&stem).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    let stale =
        actual.values().filter(|check| check.service_id == spec.id && check.id != id && ours(&check.id));
    let maintenance = actual.get(&format!("_service_maintenance:{}", spec.id));
    CheckComparison {
        mismatch,
        stale: stale.map(|check| check.id.clone()).collect(),
        maintenance: maintenance.map(|check| check.notes.clone()),
    }
}

fn check_mismatch(spec: &ServiceSpec, actual: &Check) -> Option<String> {
    if actual.service_id != spec.id {
        return Some(format!("its check belongs to service id `{}`", actual.service_id));
    }
    // Older agents do not report the type and times of a check.
    if !actual.kind.is_empty() && actual.kind != spec.check.kind() {
        return Some(format!("its check is of type {}", actual.kind));
    }
    let CheckSpec::Grpc { interval, timeout, .. } = &spec.check else { return None };
    let other = |actual: std::time::Duration, expected| !actual.is_zero() && actual != expected;
    if other(actual.interval.0, *interval) || other(actual.timeout.0, *timeout) {
        return Some(format!("its check probes every {} for at most {}", actual.interval, actual.timeout));
    }
    None
}

/// The suffix of a maintenance reason that the instance set itself, which
/// distinguishes it from an operator's.
const OWN_SUFFIX: &str = " (by the instance itself)";

/// The notes of a maintenance that the instance sets itself.
pub(super) fn own_maintenance(reason: &str) -> String {
    format!("{reason}{OWN_SUFFIX}")
}

/// Returns whether an earlier process of this instance set the maintenance.
pub(super) fn is_own(notes: &str) -> bool {
    notes.ends_with(OWN_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Address, Locality};

    fn spec() -> ServiceSpec {
        let address: Address = "10.0.0.1:5000".parse().unwrap();
        let check = CheckSpec::grpc(&address, "");
        let mut spec = ServiceSpec::new("cart".parse().unwrap(), address, check);
        spec.tags = vec!["b".to_owned(), "a".to_owned()];
        spec.locality = Some(Locality::new("eu", "a").unwrap());
        spec
    }

    fn service(json: serde_json::Value) -> AgentService {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_a_real_difference_of_the_entry_counts() {
        let same = serde_json::json!({"ID": "cart-10.0.0.1-5000", "Service": "cart", "Address": "10.0.0.1",
            "Port": 5000, "Tags": ["a", "b"], "Meta": null, "Weights": {"Passing": 1, "Warning": 1},
            "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.1", "Port": 5000}}});
        // An agent that does not report the locality.
        assert_eq!(entry_mismatch(&spec(), &service(same.clone())), None);
        let mut placed = same.clone();
        placed["Locality"] = serde_json::json!({"Region": "eu", "Zone": "a"});
        assert_eq!(entry_mismatch(&spec(), &service(placed.clone())), None);
        // An agent with a locality for an instance without one.
        let anywhere = ServiceSpec { locality: None, ..spec() };
        assert_eq!(entry_mismatch(&anywhere, &service(placed)), None);
        for (field, value, words) in [
            ("Service", serde_json::json!("other"), "service `other`"),
            ("Port", serde_json::json!(5001), "10.0.0.1:5001; if another process"),
            ("Tags", serde_json::json!([]), "tags are []"),
            ("Meta", serde_json::json!({"x": "y"}), "meta is"),
            ("Weights", serde_json::json!({"Passing": 1}), "weights are 1 and 0"),
            ("Locality", serde_json::json!({"Region": "eu", "Zone": "b"}), "locality is eu/b"),
        ] {
            let mut changed = same.clone();
            changed[field] = value;
            let found = entry_mismatch(&spec(), &service(changed)).unwrap();
            assert!(found.contains(words), "{found}");
        }
    }

    fn agent_checks(json: serde_json::Value) -> BTreeMap<String, Check> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn foreign_checks_and_a_maintenance_are_left_alone_and_stale_ones_found() {
        let id = "cart-10.0.0.1-5000";
        let found = compare_checks(
            &spec(),
            &agent_checks(serde_json::json!({
                "service:cart-10.0.0.1-5000:grpc": {"CheckID": "service:cart-10.0.0.1-5000:grpc",
                    "ServiceID": id, "Type": "grpc", "Interval": "1s", "Timeout": "1.5s"},
                "service:cart-10.0.0.1-5000:ttl": {"CheckID": "service:cart-10.0.0.1-5000:ttl", "ServiceID": id},
                "operators-own": {"CheckID": "operators-own", "ServiceID": id},
                "_service_maintenance:cart-10.0.0.1-5000": {"Notes": "moving", "ServiceID": id},
                "service:cart-10.0.0.1-50001": {"CheckID": "service:cart-10.0.0.1-50001",
                    "ServiceID": "cart-10.0.0.1-50001"},
            })),
        );
        assert_eq!(found.mismatch, None);
        assert_eq!(found.stale, ["service:cart-10.0.0.1-5000:ttl"]);
        assert_eq!(found.maintenance.as_deref(), Some("moving"));
        assert!(!is_own("moving") && is_own(&own_maintenance("draining")));
    }

    #[test]
    fn a_check_that_is_gone_foreign_or_wrong_differs() {
        let id = "service:cart-10.0.0.1-5000:grpc";
        let with = |check: serde_json::Value| {
            compare_checks(&spec(), &agent_checks(serde_json::json!({ id: check }))).mismatch
        };
        assert_eq!(compare_checks(&spec(), &BTreeMap::new()).mismatch.unwrap(), "its check is gone");
        let own = "cart-10.0.0.1-5000";
        assert!(with(serde_json::json!({"ServiceID": "x"})).unwrap().contains("`x`"));
        assert!(with(serde_json::json!({"ServiceID": own, "Type": "ttl"})).unwrap().contains("type ttl"));
        assert!(with(serde_json::json!({"ServiceID": own, "Interval": "9s"})).unwrap().contains("9s"));
        // An agent that does not report type and times.
        assert_eq!(with(serde_json::json!({"ServiceID": own})), None);
    }
}
