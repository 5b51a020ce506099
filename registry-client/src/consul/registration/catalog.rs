//! The comparison of Consul's catalog with the agent.
//!
//! An agent syncs an instance to the servers with the token that it was
//! registered with. When that token expires, the agent still lists the
//! instance, and the catalog, which all others read, becomes stale.

use std::collections::{BTreeMap, BTreeSet};

use crate::consul::{
    Check, CheckStatus, Client, Error, HealthEntry, HealthQuery, ServiceSpec, wire::BoundedList,
};

/// The entry of an instance in the catalog.
#[derive(Debug)]
pub(super) struct CatalogEntry {
    pub(super) status: CatalogStatus,
    /// The nodes that it is registered on; empty if unknown.
    pub(super) nodes: BTreeSet<String>,
}

/// The status of an instance in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CatalogStatus {
    /// Its check has this status.
    Check(CheckStatus),
    /// The instance or its check is not listed.
    Absent,
    /// The catalog cannot be read, or not completely.
    Unknown,
}

/// Reads the entry of an instance from the leader.
pub(super) async fn fetch(client: &Client, spec: &ServiceSpec) -> CatalogEntry {
    match entries(client, spec).await {
        Ok(Some(entries)) => find_entry(spec, &entries),
        Ok(None) => CatalogEntry { status: CatalogStatus::Unknown, nodes: BTreeSet::new() },
        Err(e) => {
            tracing::debug!(id = %spec.id, "failed to read the catalog entry of `{}`: {e}", spec.id);
            CatalogEntry { status: CatalogStatus::Unknown, nodes: BTreeSet::new() }
        }
    }
}

/// The entries of the service; `None` if the token cannot read all.
async fn entries(client: &Client, spec: &ServiceSpec) -> Result<Option<Vec<HealthEntry>>, Error> {
    // Not stale: a server without a leader has old data.
    let filter = Some(format!("Service.ID == {:?}", spec.id));
    let query = HealthQuery { filter, ..HealthQuery::default() };
    let call = query.call(spec.name.as_str())?;
    let response = client.send(call.clone()).await?;
    if response.meta.filtered || (response.meta.denies && !client.inner.transport.has_token()) {
        return Ok(None);
    }
    let BoundedList(entries) = client.decode(&call, &response)?;
    Ok(Some(entries))
}

fn find_entry(spec: &ServiceSpec, entries: &[HealthEntry]) -> CatalogEntry {
    // Ids are unique per agent only.
    let is_ours = |entry: &&HealthEntry| {
        let service = &entry.service;
        let at = (service.address.as_str(), service.port);
        service.id == spec.id && at == (spec.address.host(), i64::from(spec.address.port()))
    };
    let ours = || entries.iter().filter(is_ours);
    let id = spec.check_id();
    let check = ours().flat_map(|entry| &entry.checks).find(|check| check.id == id);
    CatalogEntry {
        status: check.map_or(CatalogStatus::Absent, |check| CatalogStatus::Check(check.status)),
        nodes: ours().map(|entry| entry.node.node.clone()).collect(),
    }
}

/// The difference between catalog and agent, in words. `was_listed`: an absent
/// entry counts only if it was listed before, because an old agent does not
/// report a missing permission.
pub(super) fn mismatch(
    spec: &ServiceSpec,
    agent: &BTreeMap<String, Check>,
    status: CatalogStatus,
    was_listed: bool,
) -> Option<String> {
    let says = agent.get(&spec.check_id())?.status;
    let show = match status {
        CatalogStatus::Check(status) if status != says => format!("it as {status}"),
        CatalogStatus::Absent if was_listed => "nothing of it".to_owned(),
        _ => return None,
    };
    Some(format!(
        "its agent says {says} and the servers show {show}; the token that it was registered with may have \
         expired: give CONSUL_HTTP_TOKEN one that is valid, with service:write on `{}`",
        spec.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::CheckSpec;

    fn spec() -> ServiceSpec {
        ServiceSpec::new("web".parse().unwrap(), "10.0.0.1:80".parse().unwrap(), CheckSpec::ttl())
    }

    fn agent(status: &str) -> BTreeMap<String, Check> {
        let check: Check = serde_json::from_value(serde_json::json!({"Status": status})).unwrap();
        BTreeMap::from([(spec().check_id(), check)])
    }

    #[test]
    fn only_a_difference_between_servers_and_agent_counts() {
        use CheckStatus::{Critical, Passing};
        let cases = [
            (CatalogStatus::Check(Passing), true, None),
            (CatalogStatus::Check(Critical), false, Some("says passing and the servers show it as critical")),
            (CatalogStatus::Absent, true, Some("the servers show nothing of it")),
            (CatalogStatus::Absent, false, None),
            (CatalogStatus::Unknown, true, None),
        ];
        for (status, was_listed, words) in cases {
            let said = mismatch(&spec(), &agent("passing"), status, was_listed);
            assert_eq!(said.is_some(), words.is_some(), "{status:?} {said:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{status:?}");
        }
        assert_eq!(mismatch(&spec(), &BTreeMap::new(), CatalogStatus::Absent, true), None);
    }

    #[test]
    fn an_instance_of_another_agent_with_the_same_id_is_not_ours() {
        let entry = |port: i64| {
            let check = serde_json::json!({"CheckID": spec().check_id(), "Status": "warning"});
            serde_json::from_value::<HealthEntry>(serde_json::json!({
                "Node": {"Node": "n", "Address": "10.0.0.9"},
                "Service": {"ID": spec().id, "Service": "web", "Address": "10.0.0.1", "Port": port},
                "Checks": [check],
            }))
            .unwrap()
        };
        let found = find_entry(&spec(), &[entry(81), entry(80)]);
        assert_eq!(found.status, CatalogStatus::Check(CheckStatus::Warning));
        assert_eq!(found.nodes, BTreeSet::from(["n".to_owned()]));
        let found = find_entry(&spec(), &[entry(81)]);
        assert_eq!((found.status, found.nodes.len()), (CatalogStatus::Absent, 0));
    }
}
