//! From what somebody registered to what can be called.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::{
    consul::{Check, CheckStatus, HealthEntry},
    instance::{Address, Health, Instance, InstanceId},
};

/// The most that one instance may weigh; Consul's own sidecars cap it so.
const MOST_WEIGHT: i64 = 128;

/// The checks of an instance that do not pass; for comparison without their
/// output.
pub(super) type Failing = Vec<(String, CheckStatus)>;

/// The instances of an answer, in the order of their ids.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Shared with whoever is told of them.
    pub(super) instances: Arc<[Instance]>,
    /// One for each of them.
    failing: Box<[Failing]>,
}

impl Found {
    /// Equal but for what the checks print, which Consul writes with a delay
    /// of minutes and which would wake everyone.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let like = |(a, b): (&Instance, &Instance)| {
            (&a.id, &a.address, a.weight, a.health, &a.tags, &a.meta)
                == (&b.id, &b.address, b.weight, b.health, &b.tags, &b.meta)
        };
        self.failing == other.failing && self.instances.iter().zip(&*other.instances).all(like)
    }
}

/// An entry that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Omitted {
    id: String,
    node: String,
    why: String,
}

impl fmt::Display for Omitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, node, why } = self;
        write!(f, "instance `{id}` of node `{node}`: {why}; register it anew or deregister it")
    }
}

/// The instances of an answer, and what was left out. `wan`: at the addresses for other datacenters.
pub(super) fn of(entries: Vec<HealthEntry>, wan: bool) -> (Found, HashSet<Omitted>) {
    // The one node of each id; none where there are several.
    let mut node_of: HashMap<&str, Option<&str>> = HashMap::new();
    for entry in &entries {
        let node = Some(entry.node.node.as_str());
        let known = node_of.entry(&entry.service.id).or_insert(node);
        if *known != node {
            *known = None;
        }
    }
    // Ids are unique on their agent only.
    let ids: Vec<String> = entries
        .iter()
        .map(|entry| match node_of.get(entry.service.id.as_str()) {
            Some(None) => format!("{}@{}", entry.service.id, entry.node.node),
            _ => entry.service.id.clone(),
        })
        .collect();
    let mut found = BTreeMap::new();
    let mut omitted = HashSet::new();
    for (id, entry) in ids.into_iter().zip(entries) {
        let (registered, node) = (entry.service.id.clone(), entry.node.node.clone());
        let why = match instance(&id, entry, wan) {
            Ok(instance) => match found.entry(id) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(instance);
                    continue;
                }
                std::collections::btree_map::Entry::Occupied(_) => "its id occurs twice".to_owned(),
            },
            Err(why) => why,
        };
        omitted.insert(Omitted { id: registered, node, why });
    }
    let (instances, failing): (Vec<_>, Vec<_>) = found.into_values().unzip();
    (Found { instances: instances.into(), failing: failing.into() }, omitted)
}

fn instance(id: &str, entry: HealthEntry, wan: bool) -> Result<(Instance, Failing), String> {
    if id.is_empty() {
        return Err("it has no id".to_owned());
    }
    let address = address(&entry, wan)?;
    let (health, reason) = verdict(&entry.checks);
    let weights = entry.service.weights;
    let weight = if health == Health::Warning { weights.warning } else { weights.passing };
    let weight = u16::try_from(weight.min(MOST_WEIGHT)).unwrap_or(0);
    let usable = weight > 0 || matches!(health, Health::Critical | Health::Maintenance);
    let (health, reason) =
        if usable { (health, reason) } else { (Health::Critical, format!("its weight is {weight}")) };
    let failing = entry.checks.iter().filter(|check| check.status != CheckStatus::Passing);
    let mut failing: Vec<_> = failing.map(|check| (check.id.clone(), check.status)).collect();
    failing.sort_unstable();
    let mut tags = entry.service.tags;
    tags.sort_unstable();
    let instance = Instance {
        id: InstanceId::new(id),
        address,
        weight: weight.max(1),
        health,
        reason,
        tags,
        meta: entry.service.meta,
    };
    Ok((instance, failing))
}

/// The service's address, or its node's where it has none.
fn address(entry: &HealthEntry, wan: bool) -> Result<Address, String> {
    let service = &entry.service;
    let tagged = service.tagged_addresses.get("wan").filter(|tagged| wan && !tagged.address.is_empty());
    let (host, port) = match tagged {
        Some(tagged) if tagged.port != 0 => (&tagged.address, tagged.port),
        Some(tagged) => (&tagged.address, service.port),
        None if !service.address.is_empty() => (&service.address, service.port),
        None => {
            let node = &entry.node;
            let node_wan = node.tagged_addresses.get("wan").filter(|host| wan && !host.is_empty());
            (node_wan.unwrap_or(&node.address), service.port)
        }
    };
    let port = u16::try_from(port).map_err(|_| format!("port {port} of `{host}` cannot be dialled"))?;
    Address::new(host, port).map_err(|e| e.to_string())
}

/// The worst of all checks, the node's included, and its words.
fn verdict(checks: &[Check]) -> (Health, String) {
    if let Some(check) = checks.iter().find(|check| is_maintenance(&check.id)) {
        return (Health::Maintenance, check.notes.clone());
    }
    let worst = checks.iter().max_by_key(|check| check.status);
    match worst.map(|check| (check, check.status)) {
        None | Some((_, CheckStatus::Passing)) => (Health::Passing, String::new()),
        Some((check, CheckStatus::Warning)) => (Health::Warning, words(check)),
        Some((check, CheckStatus::Critical)) => (Health::Critical, words(check)),
    }
}

/// Whether a check stands for a maintenance, of a service or of a node.
fn is_maintenance(check_id: &str) -> bool {
    check_id == "_node_maintenance" || check_id.starts_with("_service_maintenance:")
}

fn words(check: &Check) -> String {
    let said = crate::consul::error::said(check.output.as_bytes());
    format!("check `{}` is {} ({said})", check.id, check.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: serde_json::Value) -> Vec<HealthEntry> {
        serde_json::from_value(json).unwrap()
    }

    fn one(id: &str, checks: serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "Node": {"Node": "n1", "Address": "10.0.0.9"},
            "Service": {"ID": id, "Address": "10.0.0.1", "Port": 80, "Weights": {"Passing": 200, "Warning": 2}},
            "Checks": checks,
        })
    }

    fn only(entry: serde_json::Value) -> Instance {
        let (found, omitted) = of(entries(serde_json::json!([entry])), false);
        assert!(omitted.is_empty(), "{omitted:?}");
        found.instances[0].clone()
    }

    #[test]
    fn the_worst_check_decides_and_maintenance_stands_above_all() {
        let passing = serde_json::json!({"CheckID": "serfHealth", "Status": "passing"});
        let warning = serde_json::json!({"CheckID": "w", "Status": "warning", "Output": "hm"});
        let critical = serde_json::json!({"CheckID": "c", "Status": "critical", "Output": "no\nanswer"});
        let kept =
            serde_json::json!({"CheckID": "_service_maintenance:a", "Status": "critical", "Notes": "moved"});
        let cases = [
            (vec![], Health::Passing, 128, ""),
            (vec![&passing], Health::Passing, 128, ""),
            (vec![&passing, &warning], Health::Warning, 2, "check `w` is warning (hm)"),
            (vec![&critical, &warning], Health::Critical, 128, "check `c` is critical (no answer)"),
            (vec![&critical, &kept], Health::Maintenance, 128, "moved"),
        ];
        for (checks, health, weight, reason) in cases {
            let found = only(one("a", serde_json::json!(checks)));
            assert_eq!((found.health, found.weight, found.reason.as_str()), (health, weight, reason));
        }
    }

    #[test]
    fn a_weight_below_one_is_unhealthy() {
        let mut entry = one("a", serde_json::json!([]));
        entry["Service"]["Weights"]["Passing"] = 0.into();
        let found = only(entry);
        assert_eq!((found.health, found.reason.as_str()), (Health::Critical, "its weight is 0"));
    }

    #[test]
    fn the_nodes_address_serves_where_the_service_has_none() {
        let mut entry = one("a", serde_json::json!(null));
        entry["Service"]["Address"] = "".into();
        assert_eq!(only(entry.clone()).address.to_string(), "10.0.0.9:80");
        entry["Service"]["TaggedAddresses"] = serde_json::json!({"wan": {"Address": "1.2.3.4", "Port": 90}});
        assert_eq!(only(entry.clone()).address.to_string(), "10.0.0.9:80");
        let (found, _) = of(entries(serde_json::json!([entry])), true);
        assert_eq!(found.instances[0].address.to_string(), "1.2.3.4:90");
    }

    #[test]
    fn what_cannot_be_dialled_is_left_out_and_named() {
        let mut all = Vec::new();
        for (i, port) in [0, -1, 70_000].into_iter().enumerate() {
            let mut entry = one(&format!("bad{i}"), serde_json::json!([]));
            entry["Service"]["Port"] = port.into();
            all.push(entry);
        }
        all.push(one("", serde_json::json!([])));
        all.push(one("good", serde_json::json!([])));
        all.push(one("good", serde_json::json!([])));
        let (found, omitted) = of(entries(all.into()), false);
        assert_eq!(found.instances.len(), 1);
        assert_eq!(omitted.len(), 5);
        let words: Vec<String> = omitted.iter().map(ToString::to_string).collect();
        assert!(words.iter().any(|w| w.contains("`bad2`") && w.contains("port 70000")), "{words:?}");
    }

    #[test]
    fn one_id_on_two_nodes_is_two_instances() {
        let mut other = one("a", serde_json::json!([]));
        other["Node"]["Node"] = "n2".into();
        let (found, _) = of(entries(serde_json::json!([other, one("a", serde_json::json!([]))])), false);
        let ids: Vec<&str> = found.instances.iter().map(|instance| instance.id.as_str()).collect();
        assert_eq!(ids, ["a@n1", "a@n2"]);
    }

    #[test]
    fn order_and_output_make_no_difference() {
        let check =
            |output: &str| serde_json::json!([{"CheckID": "c", "Status": "warning", "Output": output}]);
        let (a, _) = of(entries(serde_json::json!([one("a", check("x")), one("b", check("x"))])), false);
        let (b, _) = of(entries(serde_json::json!([one("b", check("y")), one("a", check("z"))])), false);
        assert!(a.is_like(&b));
        let well = serde_json::json!([]);
        let (c, _) = of(entries(serde_json::json!([one("a", well), one("b", check("x"))])), false);
        assert!(!a.is_like(&c));
    }
}
