//! Whether what an agent has is what we want. Pure.

use std::collections::BTreeMap;

use crate::consul::{AgentService, Check, CheckSpec, ServiceSpec};

/// How the entry differs from what was registered, in words.
pub(super) fn entry(spec: &ServiceSpec, has: &AgentService) -> Option<String> {
    if has.service != spec.name.as_str() {
        return Some(format!("its id is registered for service `{}`", has.service));
    }
    let at = (has.address.as_str(), has.port);
    if at != (spec.address.host(), i64::from(spec.address.port())) {
        // Two processes with one id would overwrite each other for ever.
        return Some(format!(
            "its id is registered at {}:{}; if another process uses it, give each its own",
            has.address, has.port
        ));
    }
    let weights = (has.weights.passing, has.weights.warning);
    if weights != (i64::from(spec.weights.passing), i64::from(spec.weights.warning)) {
        return Some(format!("its weights are {} and {}", weights.0, weights.1));
    }
    if sorted(&has.tags) != sorted(&spec.tags) {
        return Some(format!("its tags are {:?}", has.tags));
    }
    if has.meta != spec.meta {
        return Some(format!("its meta is {:?}", has.meta));
    }
    // An agent before 1.16 tells none, and an instance without leaves it to
    // others to say where it runs.
    if let (Some(has), Some(want)) = (&has.locality, &spec.locality)
        && has != want
    {
        return Some(format!("its locality is {has}"));
    }
    None
}

fn sorted(tags: &[String]) -> Vec<&str> {
    let mut tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    tags.sort_unstable();
    tags
}

/// What the agent's checks say about ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checks {
    /// How our check differs from what was registered, in words.
    pub(super) differs: Option<String>,
    /// Checks that an earlier version of us left behind.
    pub(super) stale: Vec<String>,
    /// The reason of the maintenance that holds, whoever asked for it.
    pub(super) maintenance: Option<String>,
}

/// Compares the checks of the agent with what was registered.
pub(super) fn checks(spec: &ServiceSpec, has: &BTreeMap<String, Check>) -> Checks {
    let id = spec.check_id();
    let differs = match has.get(&id) {
        None => Some("its check is gone".to_owned()),
        Some(check) => check_differs(spec, check),
    };
    let stem = spec.check_id_stem();
    let ours =
        |other: &str| other.strip_prefix(&stem).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    let stale = has.values().filter(|check| check.service_id == spec.id && check.id != id && ours(&check.id));
    let maintenance = has.get(&format!("_service_maintenance:{}", spec.id));
    Checks {
        differs,
        stale: stale.map(|check| check.id.clone()).collect(),
        maintenance: maintenance.map(|check| check.notes.clone()),
    }
}

fn check_differs(spec: &ServiceSpec, has: &Check) -> Option<String> {
    if has.service_id != spec.id {
        return Some(format!("its check belongs to service id `{}`", has.service_id));
    }
    // Older agents do not tell a check's type and times.
    if !has.kind.is_empty() && has.kind != spec.check.kind() {
        return Some(format!("its check is of type {}", has.kind));
    }
    let CheckSpec::Grpc { interval, timeout, .. } = &spec.check else { return None };
    let other = |has: std::time::Duration, want| !has.is_zero() && has != want;
    if other(has.interval.0, *interval) || other(has.timeout.0, *timeout) {
        return Some(format!("its check probes every {} for at most {}", has.interval, has.timeout));
    }
    None
}

/// What a maintenance that an instance asks for itself ends with, so that its
/// successor under the same id can tell it from an operator's.
const OWN: &str = " (by the instance itself)";

/// The notes of a maintenance that the instance asks for itself.
pub(super) fn own_maintenance(reason: &str) -> String {
    format!("{reason}{OWN}")
}

/// Returns whether an earlier process of this instance asked for a maintenance.
pub(super) fn is_own(notes: &str) -> bool {
    notes.ends_with(OWN)
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
        // An agent that does not tell the locality.
        assert_eq!(entry(&spec(), &service(same.clone())), None);
        let mut placed = same.clone();
        placed["Locality"] = serde_json::json!({"Region": "eu", "Zone": "a"});
        assert_eq!(entry(&spec(), &service(placed.clone())), None);
        // One that says where an instance runs which does not say so itself.
        let anywhere = ServiceSpec { locality: None, ..spec() };
        assert_eq!(entry(&anywhere, &service(placed)), None);
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
            let found = entry(&spec(), &service(changed)).unwrap();
            assert!(found.contains(words), "{found}");
        }
    }

    fn agent_checks(json: serde_json::Value) -> BTreeMap<String, Check> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn foreign_checks_and_a_maintenance_are_left_alone_and_stale_ones_found() {
        let id = "cart-10.0.0.1-5000";
        let found = checks(
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
        assert_eq!(found.differs, None);
        assert_eq!(found.stale, ["service:cart-10.0.0.1-5000:ttl"]);
        assert_eq!(found.maintenance.as_deref(), Some("moving"));
        assert!(!is_own("moving") && is_own(&own_maintenance("draining")));
    }

    #[test]
    fn a_check_that_is_gone_foreign_or_wrong_differs() {
        let id = "service:cart-10.0.0.1-5000:grpc";
        let with = |check: serde_json::Value| {
            checks(&spec(), &agent_checks(serde_json::json!({ id: check }))).differs
        };
        assert_eq!(checks(&spec(), &BTreeMap::new()).differs.unwrap(), "its check is gone");
        let own = "cart-10.0.0.1-5000";
        assert!(with(serde_json::json!({"ServiceID": "x"})).unwrap().contains("`x`"));
        assert!(with(serde_json::json!({"ServiceID": own, "Type": "ttl"})).unwrap().contains("type ttl"));
        assert!(with(serde_json::json!({"ServiceID": own, "Interval": "9s"})).unwrap().contains("9s"));
        // An agent that does not tell type and times.
        assert_eq!(with(serde_json::json!({"ServiceID": own})), None);
    }
}
