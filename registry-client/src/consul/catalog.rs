//! The endpoints of the servers: health, catalog, leader.

use std::collections::BTreeMap;

use super::{Client, Error, HealthEntry, http::HttpCall, path, wire::BoundedList};

/// A query for the instances of a service; all unless set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HealthQuery {
    /// A filter expression of Consul's, such as `Service.Meta.version == "v2"`.
    pub filter: Option<String>,
    /// Another datacenter than the agent's.
    pub datacenter: Option<String>,
    /// True if any server may respond, even one that lags behind the leader or
    /// has none.
    pub stale: bool,
}

impl HealthQuery {
    /// The request.
    pub(super) fn call(&self, service: &str) -> Result<HttpCall, Error> {
        let needs = format!("service:read on `{service}` and node:read");
        let mut call = HttpCall::get(path::of("health/service", service)?, needs);
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
    /// Any [`Error`]. A missing permission results in an empty response
    /// instead.
    pub async fn health(&self, service: &str, query: &HealthQuery) -> Result<Vec<HealthEntry>, Error> {
        let BoundedList(entries) = self.fetch(query.call(service)?).await?;
        Ok(entries)
    }

    /// The names of all services, each with the tags of its instances.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn catalog_services(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let all: Option<BTreeMap<String, Option<Vec<String>>>> =
            self.fetch(HttpCall::get("/v1/catalog/services", "service:read")).await?;
        let all = all.unwrap_or_default().into_iter();
        Ok(all.map(|(name, tags)| (name, tags.unwrap_or_default())).collect())
    }

    /// The address of the leader; `None` while there is none.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        let leader: String = self.fetch(HttpCall::get("/v1/status/leader", "no right")).await?;
        Ok(Some(leader).filter(|leader| !leader.is_empty()))
    }
}
