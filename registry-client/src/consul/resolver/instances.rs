//! From what somebody registered to what can be called.

use std::{collections::HashSet, fmt, sync::Arc};

use crate::{
    consul::{Check, CheckStatus, HealthEntry},
    instance::{Address, Instance, InstanceHealth, InstanceId},
};

/// The most that one instance may weigh; Consul's own sidecars cap it so.
const MOST_WEIGHT: i64 = 128;

/// The checks of an instance that do not pass; for comparison without their
/// output.
pub(super) type Failing = Vec<(String, CheckStatus)>;

/// The instances of a response, in the order of their ids.
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
            (&a.id, &a.address, a.weight, a.health, &a.tags, &a.meta, &a.locality)
                == (&b.id, &b.address, b.weight, b.health, &b.tags, &b.meta, &b.locality)
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

/// The instances of a response, and what was left out. `wan`: at the addresses
/// for other datacenters.
pub(super) fn of(entries: Vec<HealthEntry>, wan: bool) -> (Found, HashSet<Omitted>) {
    let mut omitted = HashSet::new();
    let mut usable = Vec::new();
    for mut entry in entries {
        let (id, node) = (entry.service.id.clone(), std::mem::take(&mut entry.node.node));
        match instance(entry, wan) {
            Ok((instance, failing)) => usable.push(Entry { node, instance, failing }),
            Err(why) => {
                omitted.insert(Omitted { id, node, why });
            }
        }
    }
    // An id is unique on its agent only; what listens at one address is one
    // process, under however many ids and on however many nodes it stands.
    usable.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut found = Vec::new();
    let mut usable = usable.into_iter().peekable();
    while let Some(first) = usable.next() {
        let address = first.instance.address.clone();
        let mut others = Vec::new();
        while let Some(other) = usable.next_if(|other| other.instance.address == address) {
            others.push(other);
        }
        found.push(process(first, others, &mut omitted));
    }
    found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    let (instances, failing): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    (Found { instances: instances.into(), failing: failing.into() }, omitted)
}

/// One entry that can be called.
struct Entry {
    node: String,
    instance: Instance,
    failing: Failing,
}

impl Entry {
    /// Those of one process stand together, the one that names it first.
    fn key(&self) -> (&Address, &InstanceId, &str) {
        (&self.instance.address, &self.instance.id, &self.node)
    }
}

/// The process that `first` and `others`, all of one address, stand for.
///
/// A maintenance of any entry counts: somebody wants the process out, and
/// named it by the entry at hand. Otherwise the healthiest entry decides. A
/// check says that *one* agent reaches the process, and one success shows that
/// the process works: an entry that is critical beside it stands at an agent
/// that is cut off or dead, or is told no heartbeat any more, because the
/// process registered elsewhere after a restart.
fn process(first: Entry, others: Vec<Entry>, omitted: &mut HashSet<Omitted>) -> (Instance, Failing) {
    // Whichever entry decides, the process stays the same.
    let (id, node) = (first.instance.id.clone(), first.node.clone());
    let rank = |entry: &Entry| (entry.instance.health != InstanceHealth::Maintenance, entry.instance.health);
    let (mut decider, mut tags) = (first, Vec::new());
    for mut other in others {
        let (at, registered) = (&other.instance.address, id.registered());
        let why = format!(
            "it has the address {at} of instance `{registered}` of node `{node}` and is counted once with it"
        );
        omitted.insert(Omitted {
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
    (instance, decider.failing)
}

fn instance(entry: HealthEntry, wan: bool) -> Result<(Instance, Failing), String> {
    if entry.service.id.is_empty() {
        return Err("it has no id".to_owned());
    }
    let address = address(&entry, wan)?;
    let id = InstanceId::at(&entry.service.service, &entry.service.id, &address);
    let (health, reason) = verdict(&entry.checks);
    let weights = entry.service.weights;
    let weight = if health == InstanceHealth::Warning { weights.warning } else { weights.passing };
    let weight = u16::try_from(weight.min(MOST_WEIGHT)).unwrap_or(0);
    let usable = weight > 0 || matches!(health, InstanceHealth::Critical | InstanceHealth::Maintenance);
    let (health, reason) =
        if usable { (health, reason) } else { (InstanceHealth::Critical, format!("its weight is {weight}")) };
    let failing = entry.checks.iter().filter(|check| check.status != CheckStatus::Passing);
    let mut failing: Vec<_> = failing.map(|check| (check.id.clone(), check.status)).collect();
    failing.sort_unstable();
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
fn verdict(checks: &[Check]) -> (InstanceHealth, String) {
    if let Some(check) = checks.iter().find(|check| is_maintenance(&check.id)) {
        return (InstanceHealth::Maintenance, check.notes.clone());
    }
    let worst = checks.iter().max_by_key(|check| check.status);
    match worst.map(|check| (check, check.status)) {
        None | Some((_, CheckStatus::Passing)) => (InstanceHealth::Passing, String::new()),
        Some((check, CheckStatus::Warning)) => (InstanceHealth::Warning, words(check)),
        Some((check, CheckStatus::Critical)) => (InstanceHealth::Critical, words(check)),
    }
}

/// Returns whether a check stands for a maintenance, of a service or of a node.
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
    fn a_locality_is_told_and_its_change_is_news() {
        let mut entry = one("a", serde_json::json!([]));
        let (nowhere, _) = of(entries(serde_json::json!([entry])), false);
        assert_eq!(nowhere.instances[0].locality, None);
        entry["Service"]["Locality"] = serde_json::json!({"Region": "eu", "Zone": "a"});
        let (somewhere, _) = of(entries(serde_json::json!([entry])), false);
        assert_eq!(somewhere.instances[0].locality, Some(Locality::new("eu", "a").unwrap()));
        assert!(!somewhere.is_like(&nowhere));
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
        let (found, omitted) = of(entries(all.into()), false);
        assert_eq!(found.instances.len(), 1);
        assert_eq!(omitted.len(), 4);
        let words: Vec<String> = omitted.iter().map(ToString::to_string).collect();
        assert!(words.iter().any(|w| w.contains("`bad2`") && w.contains("port 70000")), "{words:?}");
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
        let (found, omitted) = of(entries(both.to_vec().into()), false);
        let ids: Vec<&str> = found.instances.iter().map(|instance| instance.id.as_str()).collect();
        assert_eq!(ids, ["web@10.0.0.1:80", "web@10.0.0.1:81"]);
        assert!(omitted.is_empty(), "{omitted:?}");
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
                    let (found, omitted) = of(entries(both.to_vec().into()), false);
                    let [instance] = &*found.instances else { panic!("{:?}", found.instances) };
                    let id = format!("{}@10.0.0.1:80", ids[0]);
                    assert_eq!(
                        (instance.id.as_str(), instance.health),
                        (id.as_str(), health),
                        "{one} {other}"
                    );
                    assert_eq!(instance.tags, ["a", "b", "c"]);
                    let words: Vec<String> = omitted.iter().map(ToString::to_string).collect();
                    assert!(
                        words.len() == 1 && words[0].contains("of node `n2`: it has the address"),
                        "{words:?}"
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
        let (a, _) = of(entries(serde_json::json!([at(80, check("x")), at(81, check("x"))])), false);
        let (b, _) = of(entries(serde_json::json!([at(81, check("y")), at(80, check("z"))])), false);
        assert!(a.is_like(&b));
        let well = serde_json::json!([]);
        let (c, _) = of(entries(serde_json::json!([at(80, well), at(81, check("x"))])), false);
        assert!(!a.is_like(&c));
    }
}
