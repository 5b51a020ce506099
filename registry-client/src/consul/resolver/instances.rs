//! The conversion of Consul's entries to instances.

use std::{collections::HashSet, fmt, sync::Arc};

use crate::{
    consul::{Check, CheckStatus, HealthEntry},
    instance::{Address, Instance, InstanceHealth, InstanceId},
};

/// The largest weight; Consul's own sidecars have the same limit.
const MAX_WEIGHT: i64 = 128;

/// The failing checks of an instance, without their output.
pub(super) type FailingChecks = Vec<(String, CheckStatus)>;

/// The instances of a response, in the order of their ids.
#[derive(Clone, Debug)]
pub(super) struct ServiceInstances {
    /// Shared with the published resolution.
    pub(super) instances: Arc<[Instance]>,
    /// The failing checks of each instance.
    failing_checks: Box<[FailingChecks]>,
}

impl ServiceInstances {
    /// Returns whether both are equal except for the output of checks, which
    /// Consul updates minutes later and which would wake every watcher.
    pub(super) fn equals_ignoring_output(&self, other: &Self) -> bool {
        let equal = |(a, b): (&Instance, &Instance)| {
            (&a.id, &a.address, a.weight, a.health, &a.tags, &a.meta, &a.locality)
                == (&b.id, &b.address, b.weight, b.health, &b.tags, &b.meta, &b.locality)
        };
        self.failing_checks == other.failing_checks && self.instances.iter().zip(&*other.instances).all(equal)
    }
}

/// An entry that cannot be used, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SkippedEntry {
    id: String,
    node: String,
    why: String,
}

impl fmt::Display for SkippedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, node, why } = self;
        write!(f, "instance `{id}` of node `{node}`: {why}; register it again or deregister it")
    }
}

/// The usable instances of a response, and the skipped entries. `wan`: with the
/// addresses for other datacenters.
pub(super) fn usable_instances(
    entries: Vec<HealthEntry>,
    wan: bool,
) -> (ServiceInstances, HashSet<SkippedEntry>) {
    let mut skipped = HashSet::new();
    let mut usable = Vec::new();
    for mut entry in entries {
        let (id, node) = (entry.service.id.clone(), std::mem::take(&mut entry.node.node));
        match instance(entry, wan) {
            Ok((instance, failing_checks)) => usable.push(UsableEntry { node, instance, failing_checks }),
            Err(why) => {
                skipped.insert(SkippedEntry { id, node, why });
            }
        }
    }
    // An id is unique on its agent only; entries with the same address are one
    // process, whatever their ids and nodes.
    usable.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut found = Vec::new();
    let mut usable = usable.into_iter().peekable();
    while let Some(first) = usable.next() {
        let address = first.instance.address.clone();
        let mut others = Vec::new();
        while let Some(other) = usable.next_if(|other| other.instance.address == address) {
            others.push(other);
        }
        found.push(merge_process(first, others, &mut skipped));
    }
    found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    let (instances, failing_checks): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    (ServiceInstances { instances: instances.into(), failing_checks: failing_checks.into() }, skipped)
}

/// A usable entry.
struct UsableEntry {
    node: String,
    instance: Instance,
    failing_checks: FailingChecks,
}

impl UsableEntry {
    /// The sort key: entries of one process are adjacent, the one that names it
    /// first.
    fn key(&self) -> (&Address, &InstanceId, &str) {
        (&self.instance.address, &self.instance.id, &self.node)
    }
}

/// Merges `first` and `others`, all of one address, to one process.
///
/// A maintenance of any entry counts: an operator wants the process out.
/// Otherwise the healthiest entry decides. A check shows that *one* agent
/// reaches the process, and one success shows that the process works: a
/// critical entry beside it is at an agent that is disconnected or dead, or no
/// longer gets heartbeats because the process registered elsewhere after a
/// restart.
fn merge_process(
    first: UsableEntry,
    others: Vec<UsableEntry>,
    skipped: &mut HashSet<SkippedEntry>,
) -> (Instance, FailingChecks) {
    // The id does not depend on which entry decides.
    let (id, node) = (first.instance.id.clone(), first.node.clone());
    let rank =
        |entry: &UsableEntry| (entry.instance.health != InstanceHealth::Maintenance, entry.instance.health);
    let (mut decider, mut tags) = (first, Vec::new());
    for mut other in others {
        let (at, registered) = (&other.instance.address, id.registered());
        let why = format!(
            "it has the address {at} of instance `{registered}` of node `{node}` and is counted once with it"
        );
        skipped.insert(SkippedEntry {
            id: other.instance.id.registered().to_owned(),
            node: other.node.clone(),
            why,
        });
        if rank(&other) < rank(&decider) {
            std::mem::swap(&mut other, &mut decider);
        }
        tags.append(&mut other.instance.tags);
    }
    let mut instance = Instance { id, ..decider.instance };
    instance.tags.append(&mut tags);
    instance.tags.sort_unstable();
    instance.tags.dedup();
    (instance, decider.failing_checks)
}

fn instance(entry: HealthEntry, wan: bool) -> Result<(Instance, FailingChecks), String> {
    if entry.service.id.is_empty() {
        return Err("it has no id".to_owned());
    }
    let address = address(&entry, wan)?;
    let id = InstanceId::at(&entry.service.service, &entry.service.id, &address);
    let (health, reason) = verdict(&entry.checks);
    let weights = entry.service.weights;
    let weight = if health == InstanceHealth::Warning { weights.warning } else { weights.passing };
    let weight = u16::try_from(weight.min(MAX_WEIGHT)).unwrap_or(0);
    let usable = weight > 0 || matches!(health, InstanceHealth::Critical | InstanceHealth::Maintenance);
    let (health, reason) =
        if usable { (health, reason) } else { (InstanceHealth::Critical, format!("its weight is {weight}")) };
    let failing_checks = entry.checks.iter().filter(|check| check.status != CheckStatus::Passing);
    let mut failing_checks: Vec<_> = failing_checks.map(|check| (check.id.clone(), check.status)).collect();
    failing_checks.sort_unstable();
    let instance = Instance {
        id,
        address,
        weight: weight.max(1),
        health,
        reason,
        tags: entry.service.tags,
        meta: entry.service.meta,
        locality: entry.service.locality,
    };
    Ok((instance, failing_checks))
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

/// The health by the worst of all checks, the node's included, with its reason.
fn verdict(checks: &[Check]) -> (InstanceHealth, String) {
    if let Some(check) = checks.iter().find(|check| is_maintenance(&check.id)) {
        return (InstanceHealth::Maintenance, check.notes.clone());
    }
    let worst = checks.iter().max_by_key(|check| check.status);
    match worst.map(|check| (check, check.status)) {
        None | Some((_, CheckStatus::Passing)) => (InstanceHealth::Passing, String::new()),
        Some((check, CheckStatus::Warning)) => (InstanceHealth::Warning, describe(check)),
        Some((check, CheckStatus::Critical)) => (InstanceHealth::Critical, describe(check)),
    }
}

/// Returns whether a check is the maintenance of a service or of a node.
fn is_maintenance(check_id: &str) -> bool {
    check_id == "_node_maintenance" || check_id.starts_with("_service_maintenance:")
}

fn describe(check: &Check) -> String {
    let output = crate::consul::error::excerpt(check.output.as_bytes());
    format!("check `{}` is {} ({output})", check.id, check.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Locality;

    fn entries(json: serde_json::Value) -> Vec<HealthEntry> {
        serde_json::from_value(json).unwrap()
    }

    fn one(id: &str, checks: serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "Node": {"Node": "n1", "Address": "10.0.0.9"},
            "Service": {"ID": id, "Service": "web", "Address": "10.0.0.1", "Port": 80, "Weights": {"Passing": 200, "Warning": 2}},
            "Checks": checks,
        })
    }

    fn only(entry: serde_json::Value) -> Instance {
        let (found, skipped) = usable_instances(entries(serde_json::json!([entry])), false);
        assert!(skipped.is_empty(), "{skipped:?}");
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
            (vec![], InstanceHealth::Passing, 128, ""),
            (vec![&passing], InstanceHealth::Passing, 128, ""),
            (vec![&passing, &warning], InstanceHealth::Warning, 2, "check `w` is warning (hm)"),
            (vec![&critical, &warning], InstanceHealth::Critical, 128, "check `c` is critical (no answer)"),
            (vec![&critical, &kept], InstanceHealth::Maintenance, 128, "moved"),
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
        assert_eq!((found.health, found.reason.as_str()), (InstanceHealth::Critical, "its weight is 0"));
    }

    #[test]
    fn a_locality_is_reported_and_its_change_is_news() {
        let mut entry = one("a", serde_json::json!([]));
        let (nowhere, _) = usable_instances(entries(serde_json::json!([entry])), false);
        assert_eq!(nowhere.instances[0].locality, None);
        entry["Service"]["Locality"] = serde_json::json!({"Region": "eu", "Zone": "a"});
        let (somewhere, _) = usable_instances(entries(serde_json::json!([entry])), false);
        assert_eq!(somewhere.instances[0].locality, Some(Locality::new("eu", "a").unwrap()));
        assert!(!somewhere.equals_ignoring_output(&nowhere));
    }

    #[test]
    fn the_nodes_address_serves_where_the_service_has_none() {
        let mut entry = one("a", serde_json::json!(null));
        entry["Service"]["Address"] = "".into();
        assert_eq!(only(entry.clone()).address.to_string(), "10.0.0.9:80");
        entry["Service"]["TaggedAddresses"] = serde_json::json!({"wan": {"Address": "1.2.3.4", "Port": 90}});
        assert_eq!(only(entry.clone()).address.to_string(), "10.0.0.9:80");
        let (found, _) = usable_instances(entries(serde_json::json!([entry])), true);
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
        let (found, skipped) = usable_instances(entries(all.into()), false);
        assert_eq!(found.instances.len(), 1);
        assert_eq!(skipped.len(), 4);
        let describe: Vec<String> = skipped.iter().map(ToString::to_string).collect();
        assert!(describe.iter().any(|w| w.contains("`bad2`") && w.contains("port 70000")), "{describe:?}");
    }

    fn on(node: &str, id: &str, port: u16, status: &str) -> serde_json::Value {
        let id_of_check = match status {
            "maintenance" => format!("_service_maintenance:{id}"),
            _ => "c".to_owned(),
        };
        let mut entry =
            one(id, serde_json::json!([{"CheckID": id_of_check, "Status": status, "Notes": "op"}]));
        entry["Node"]["Node"] = node.into();
        entry["Service"]["Port"] = port.into();
        entry
    }

    #[test]
    fn an_instances_id_does_not_depend_on_its_neighbours() {
        let both = [on("n1", "web", 80, "passing"), on("n2", "web", 81, "passing")];
        let (found, skipped) = usable_instances(entries(both.to_vec().into()), false);
        let ids: Vec<&str> = found.instances.iter().map(|instance| instance.id.as_str()).collect();
        assert_eq!(ids, ["web@10.0.0.1:80", "web@10.0.0.1:81"]);
        assert!(skipped.is_empty(), "{skipped:?}");
        for (entry, id) in both.into_iter().zip(ids) {
            assert_eq!(only(entry).id.as_str(), id);
        }
    }

    #[test]
    fn what_listens_at_one_address_is_one_process_of_the_best_health_unless_it_is_maintained() {
        use InstanceHealth::{Critical, Maintenance, Passing, Warning};
        let cases = [
            ("passing", "passing", Passing),
            ("passing", "critical", Passing),
            ("critical", "passing", Passing),
            ("critical", "warning", Warning),
            ("critical", "critical", Critical),
            ("passing", "maintenance", Maintenance),
            ("maintenance", "critical", Maintenance),
        ];
        for (one, other, health) in cases {
            for ids in [["web", "web"], ["web-a", "web-b"]] {
                let mut both = [on("n1", ids[0], 80, one), on("n2", ids[1], 80, other)];
                both[0]["Service"]["Tags"] = serde_json::json!(["b", "a"]);
                both[1]["Service"]["Tags"] = serde_json::json!(["c", "a"]);
                for _ in 0..2 {
                    both.reverse();
                    let (found, skipped) = usable_instances(entries(both.to_vec().into()), false);
                    let [instance] = &*found.instances else { panic!("{:?}", found.instances) };
                    let id = format!("{}@10.0.0.1:80", ids[0]);
                    assert_eq!(
                        (instance.id.as_str(), instance.health),
                        (id.as_str(), health),
                        "{one} {other}"
                    );
                    assert_eq!(instance.tags, ["a", "b", "c"]);
                    let describe: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                    assert!(
                        describe.len() == 1 && describe[0].contains("of node `n2`: it has the address"),
                        "{describe:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn order_and_output_make_no_difference() {
        let check =
            |output: &str| serde_json::json!([{"CheckID": "c", "Status": "warning", "Output": output}]);
        let at = |port: u16, check: serde_json::Value| {
            let mut entry = one("a", check);
            entry["Service"]["Port"] = port.into();
            entry
        };
        let (a, _) =
            usable_instances(entries(serde_json::json!([at(80, check("x")), at(81, check("x"))])), false);
        let (b, _) =
            usable_instances(entries(serde_json::json!([at(81, check("y")), at(80, check("z"))])), false);
        assert!(a.equals_ignoring_output(&b));
        let well = serde_json::json!([]);
        let (c, _) = usable_instances(entries(serde_json::json!([at(80, well), at(81, check("x"))])), false);
        assert!(!a.equals_ignoring_output(&c));
    }
}
