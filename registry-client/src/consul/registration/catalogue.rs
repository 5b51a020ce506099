//! Whether the servers show an instance as its agent does.
//!
//! An agent tells the servers with the token that an instance was registered
//! with. When that token expires, the agent goes on listing the instance and
//! the catalogue, which everybody else reads, stays as it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::consul::{
    Check, CheckStatus, Client, Error, HealthEntry, HealthQuery, ServiceSpec, wire::Bounded,
};

/// An instance as the catalogue has it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) shown: Shown,
    /// The nodes that it is registered on; none where that is unknown.
    pub(super) nodes: BTreeSet<String>,
}

/// What the servers show of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Its check, with this status.
    As(CheckStatus),
    /// Nothing of it.
    Absent,
    /// They cannot be asked, or not all may be seen.
    Unknown,
}

/// Asks the leader what the servers show.
pub(super) async fn ask(client: &Client, spec: &ServiceSpec) -> Listed {
    match entries(client, spec).await {
        Ok(Some(entries)) => find(spec, &entries),
        Ok(None) => Listed { shown: Shown::Unknown, nodes: BTreeSet::new() },
        Err(e) => {
            tracing::debug!(id = %spec.id, "what the servers show of `{}` cannot be read: {e}", spec.id);
            Listed { shown: Shown::Unknown, nodes: BTreeSet::new() }
        }
    }
}

/// `None` when not all of them may be seen.
async fn entries(client: &Client, spec: &ServiceSpec) -> Result<Option<Vec<HealthEntry>>, Error> {
    // Not stale: a server without a leader shows the past.
    let filter = Some(format!("Service.ID == {:?}", spec.id));
    let query = HealthQuery { filter, ..HealthQuery::default() };
    let call = query.call(spec.name.as_str())?;
    let answer = client.send(call.clone()).await?;
    if answer.meta.filtered || (answer.meta.denies && !client.inner.transport.has_token()) {
        return Ok(None);
    }
    let Bounded(entries) = client.decode(&call, &answer)?;
    Ok(Some(entries))
}

fn find(spec: &ServiceSpec, entries: &[HealthEntry]) -> Listed {
    // Ids are unique per agent only.
    let is_ours = |entry: &&HealthEntry| {
        let service = &entry.service;
        let at = (service.address.as_str(), service.port);
        service.id == spec.id && at == (spec.address.host(), i64::from(spec.address.port()))
    };
    let ours = || entries.iter().filter(is_ours);
    let id = spec.check_id();
    let check = ours().flat_map(|entry| &entry.checks).find(|check| check.id == id);
    Listed {
        shown: check.map_or(Shown::Absent, |check| Shown::As(check.status)),
        nodes: ours().map(|entry| entry.node.node.clone()).collect(),
    }
}

/// How what the servers show differs from what the agent says, in words.
/// `was_shown`: nothing of it is news only where there was something before,
/// for an old agent does not tell that a right is missing.
pub(super) fn differs(
    spec: &ServiceSpec,
    agent: &BTreeMap<String, Check>,
    shown: Shown,
    was_shown: bool,
) -> Option<String> {
    let says = agent.get(&spec.check_id())?.status;
    let show = match shown {
        Shown::As(status) if status != says => format!("it as {status}"),
        Shown::Absent if was_shown => "nothing of it".to_owned(),
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
            (Shown::As(Passing), true, None),
            (Shown::As(Critical), false, Some("says passing and the servers show it as critical")),
            (Shown::Absent, true, Some("the servers show nothing of it")),
            (Shown::Absent, false, None),
            (Shown::Unknown, true, None),
        ];
        for (shown, was_shown, words) in cases {
            let said = differs(&spec(), &agent("passing"), shown, was_shown);
            assert_eq!(said.is_some(), words.is_some(), "{shown:?} {said:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{shown:?}");
        }
        assert_eq!(differs(&spec(), &BTreeMap::new(), Shown::Absent, true), None);
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
        let found = find(&spec(), &[entry(81), entry(80)]);
        assert_eq!(found.shown, Shown::As(CheckStatus::Warning));
        assert_eq!(found.nodes, BTreeSet::from(["n".to_owned()]));
        let found = find(&spec(), &[entry(81)]);
        assert_eq!((found.shown, found.nodes.len()), (Shown::Absent, 0));
    }
}
