//! What the servers know: health, catalogue, leader.

use std::collections::BTreeMap;

use super::{Client, Error, HealthEntry, http::Call, path, wire::Bounded};

/// Which instances of a service are asked for; all unless set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HealthQuery {
    /// A filter expression of Consul's, such as `Service.Meta.version == "v2"`.
    pub filter: Option<String>,
    /// Another datacenter than the agent's.
    pub datacenter: Option<String>,
    /// True if any server may answer, also one that may lag behind the leader.
    /// It then answers while there is no leader.
    pub stale: bool,
}

impl HealthQuery {
    /// The call that asks it.
    pub(super) fn call(&self, service: &str) -> Result<Call, Error> {
        let needs = format!("service:read on `{service}` and node:read");
        let mut call = Call::get(path::of("health/service", service)?, needs);
        if self.stale {
            call = call.with("stale", "");
        }
        if let Some(datacenter) = &self.datacenter {
            call = call.with("dc", datacenter);
        }
        if let Some(filter) = &self.filter {
            call = call.with("filter", filter);
        }
        Ok(call)
    }
}

impl Client {
    /// The instances of a service with their checks, passing or not.
    ///
    /// # Errors
    /// Any [`Error`]. A missing right shows as an empty response, not as one.
    pub async fn health(&self, service: &str, query: &HealthQuery) -> Result<Vec<HealthEntry>, Error> {
        let Bounded(entries) = self.fetch(query.call(service)?).await?;
        Ok(entries)
    }

    /// The names of all services, each with the tags of its instances.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn catalog_services(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let all: Option<BTreeMap<String, Option<Vec<String>>>> =
            self.fetch(Call::get("/v1/catalog/services", "service:read")).await?;
        let all = all.unwrap_or_default().into_iter();
        Ok(all.map(|(name, tags)| (name, tags.unwrap_or_default())).collect())
    }

    /// The address of the servers' leader; `None` while there is none.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        let leader: String = self.fetch(Call::get("/v1/status/leader", "no right")).await?;
        Ok(Some(leader).filter(|leader| !leader.is_empty()))
    }
}
