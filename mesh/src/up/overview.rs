//! What `mesh up` knows of its processes: what it started, and what the
//! registry shows.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use registry_client::{
    instance::{Address, InstanceHealth, InstanceId},
    resolve::Resolution,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    services::Service,
    state::{MeshFile, Process},
};

/// One process and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `cart-service-1`.
    pub(crate) name: String,
    pub(crate) service: Service,
    pub(crate) address: Address,
    /// Where it tells of itself.
    pub(crate) admin: SocketAddr,
    pub(crate) log: PathBuf,
    /// `None` while it is down.
    pub(crate) pid: Option<u32>,
    /// The id it was last listed under.
    pub(crate) id: Option<InstanceId>,
    /// `None` while the registry does not list it.
    pub(crate) listed: Option<Listed>,
}

/// What the registry shows of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) health: InstanceHealth,
    pub(crate) reason: String,
    /// When this health was first seen, RFC 3339.
    pub(crate) since: String,
}

impl Seen {
    /// A process that is to listen at `address`, and to tell of itself at
    /// `admin`.
    pub(crate) fn new(
        service: Service,
        replica: u16,
        (address, admin): (SocketAddr, SocketAddr),
        log: PathBuf,
    ) -> Self {
        let name = format!("{service}-{replica}");
        Self { name, service, address: address.into(), admin, log, pid: None, id: None, listed: None }
    }

    /// Whether it may be called.
    pub(crate) fn is_passing(&self) -> bool {
        self.listed.as_ref().is_some_and(|l| l.health == InstanceHealth::Passing)
    }

    /// Its health in a word.
    pub(crate) fn health(&self) -> &'static str {
        self.listed.as_ref().map_or("unlisted", |l| health_name(l.health))
    }

    /// Why it is not passing, in words.
    pub(crate) fn why_not(&self) -> String {
        match &self.listed {
            None => "not in the registry".to_owned(),
            Some(listed) if listed.reason.is_empty() => health_name(listed.health).to_owned(),
            Some(listed) => format!("{}: {}", health_name(listed.health), listed.reason),
        }
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    /// In the order they are shown.
    pub(crate) instances: Vec<Seen>,
    /// Why the registry was last not understood; `None` once it is.
    pub(crate) trouble: Option<Arc<str>>,
}

impl Overview {
    /// Processes that nothing is known of yet.
    pub(crate) fn new(instances: Vec<Seen>) -> Self {
        Self { instances, trouble: None }
    }

    /// Takes in what the registry says of a service; returns which instances'
    /// health differs from before.
    pub(crate) fn resolved(&mut self, service: Service, resolution: &Resolution) -> Vec<usize> {
        self.trouble.clone_from(&resolution.error);
        // No answer yet, or none that is new: what was known stays known.
        let Some(found) = &resolution.instances else { return Vec::new() };
        let mut changed = Vec::new();
        for (index, seen) in self.instances.iter_mut().enumerate().filter(|(_, s)| s.service == service) {
            let now = found.iter().find(|i| i.address == seen.address);
            let before = seen.listed.take();
            let same = before.as_ref().map(|l| l.health) == now.map(|i| i.health);
            if !same {
                changed.push(index);
            }
            seen.id = now.map(|i| i.id.clone()).or(seen.id.take());
            seen.listed = now.map(|instance| Listed {
                health: instance.health,
                reason: instance.reason.clone(),
                since: before.filter(|_| same).map_or_else(rfc3339_now, |l| l.since),
            });
        }
        changed
    }

    /// Whether every process is there and passing.
    pub(crate) fn is_ready(&self) -> bool {
        self.instances.iter().all(|seen| seen.pid.is_some() && seen.is_passing())
    }

    /// The process of that name.
    pub(crate) fn named(&mut self, name: &str) -> Option<&mut Seen> {
        self.instances.iter_mut().find(|seen| seen.name == name)
    }

    /// As `mesh.json` tells it.
    pub(crate) fn file(&self, registry: &str, started: &str) -> MeshFile {
        let process = |seen: &Seen| Process {
            name: seen.name.clone(),
            admin: Some(seen.admin.to_string()),
            service: seen.service.name().to_owned(),
            id: seen.id.as_ref().map(ToString::to_string),
            address: seen.address.to_string(),
            pid: seen.pid,
            health: seen.listed.as_ref().map(|l| health_name(l.health).to_owned()),
            since: seen.listed.as_ref().map(|l| l.since.clone()),
            log: seen.log.clone(),
        };
        MeshFile {
            registry: registry.to_owned(),
            pid: std::process::id(),
            started: started.to_owned(),
            instances: self.instances.iter().map(process).collect(),
        }
    }
}

/// A health as scripts read it.
pub(crate) fn health_name(health: InstanceHealth) -> &'static str {
    match health {
        InstanceHealth::Passing => "passing",
        InstanceHealth::Warning => "warning",
        InstanceHealth::Critical => "critical",
        InstanceHealth::Maintenance => "maintenance",
    }
}

/// Now, in UTC, to the millisecond.
pub(crate) fn rfc3339_now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    // Formatting fails only for years that no clock shows.
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use registry_client::instance::Instance;

    use super::*;

    fn overview() -> Overview {
        let seen = |service, port| {
            let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
            Seen::new(service, 1, (at(port), at(port + 100)), PathBuf::from("x.log"))
        };
        Overview::new(vec![seen(Service::Cart, 50051), seen(Service::Order, 50061)])
    }

    fn resolution(health: InstanceHealth) -> Resolution {
        let mut ours = Instance::new("cart-a", "127.0.0.1:50051".parse().unwrap());
        ours.health = health;
        let strange = Instance::new("cart-b", "10.0.0.9:50051".parse().unwrap());
        Resolution::found(vec![ours, strange])
    }

    #[test]
    fn an_instance_is_known_by_its_address_and_its_health_keeps_its_date() {
        let mut overview = overview();
        assert_eq!(overview.resolved(Service::Cart, &resolution(InstanceHealth::Critical)), [0]);
        let first = overview.instances[0].listed.clone().unwrap();
        assert_eq!(overview.instances[0].id.as_ref().unwrap().as_str(), "cart-a");
        assert!(overview.resolved(Service::Cart, &resolution(InstanceHealth::Critical)).is_empty());
        assert_eq!(overview.instances[0].listed.as_ref().unwrap().since, first.since);
        assert_eq!(overview.resolved(Service::Cart, &resolution(InstanceHealth::Passing)), [0]);
        assert_eq!(overview.instances[1].health(), "unlisted");
    }

    #[test]
    fn it_is_ready_when_every_process_runs_and_passes() {
        let mut overview = overview();
        overview.instances.truncate(1);
        overview.resolved(Service::Cart, &resolution(InstanceHealth::Passing));
        assert!(!overview.is_ready(), "its process is not there");
        overview.named("cart-service-1").unwrap().pid = Some(1);
        assert!(overview.is_ready());
        overview.resolved(Service::Cart, &Resolution::default());
        assert!(overview.is_ready(), "no answer is no news");
        overview.resolved(Service::Cart, &Resolution::found(vec![]));
        assert!(!overview.is_ready());
        assert_eq!(overview.instances[0].why_not(), "not in the registry");
    }
}
