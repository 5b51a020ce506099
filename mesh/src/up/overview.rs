//! The processes of `mesh up` and their entries in the registry.

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

/// The state of one process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessStatus {
    /// `cart-service-1`.
    pub(crate) name: String,
    pub(crate) service: Service,
    pub(crate) address: Address,
    /// The admin address.
    pub(crate) admin: SocketAddr,
    pub(crate) log: PathBuf,
    /// `None` while it is down.
    pub(crate) pid: Option<u32>,
    /// The id under which it was last listed.
    pub(crate) id: Option<InstanceId>,
    /// `None` while the registry does not list it.
    pub(crate) entry: Option<RegistryEntry>,
}

/// An instance's entry in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegistryEntry {
    pub(crate) health: InstanceHealth,
    pub(crate) reason: String,
    /// The time when this health was first seen, RFC 3339.
    pub(crate) since: String,
}

impl ProcessStatus {
    /// A process that will listen at `address`, with its admin endpoint at
    /// `admin`.
    pub(crate) fn new(
        service: Service,
        replica: u16,
        (address, admin): (SocketAddr, SocketAddr),
        log: PathBuf,
    ) -> Self {
        let name = format!("{service}-{replica}");
        Self { name, service, address: address.into(), admin, log, pid: None, id: None, entry: None }
    }

    /// Returns whether the registry lists it as passing.
    pub(crate) fn is_passing(&self) -> bool {
        self.entry.as_ref().is_some_and(|l| l.health == InstanceHealth::Passing)
    }

    /// The health in a word.
    pub(crate) fn health(&self) -> &'static str {
        self.entry.as_ref().map_or("unlisted", |l| health_name(l.health))
    }

    /// The reason why it is not passing.
    pub(crate) fn not_passing_reason(&self) -> String {
        match &self.entry {
            None => "not in the registry".to_owned(),
            Some(entry) if entry.reason.is_empty() => health_name(entry.health).to_owned(),
            Some(entry) => format!("{}: {}", health_name(entry.health), entry.reason),
        }
    }
}

/// The state of all processes.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    /// The processes in the order in which they are shown.
    pub(crate) instances: Vec<ProcessStatus>,
    /// The last error of the registry; `None` once it responds again.
    pub(crate) registry_error: Option<Arc<str>>,
}

impl Overview {
    /// Processes that are not started yet.
    pub(crate) fn new(instances: Vec<ProcessStatus>) -> Self {
        Self { instances, registry_error: None }
    }

    /// Applies a new resolution of a service; returns the indices of the
    /// instances whose health changed.
    pub(crate) fn apply(&mut self, service: Service, resolution: &Resolution) -> Vec<usize> {
        self.registry_error.clone_from(&resolution.error);
        // No response yet: the last state stays.
        let Some(listed) = &resolution.instances else { return Vec::new() };
        let mut changed = Vec::new();
        for (index, process) in self.instances.iter_mut().enumerate().filter(|(_, s)| s.service == service) {
            let now = listed.iter().find(|i| i.address == process.address);
            let before = process.entry.take();
            let same = before.as_ref().map(|l| l.health) == now.map(|i| i.health);
            if !same {
                changed.push(index);
            }
            process.id = now.map(|i| i.id.clone()).or(process.id.take());
            process.entry = now.map(|instance| RegistryEntry {
                health: instance.health,
                reason: instance.reason.clone(),
                since: before.filter(|_| same).map_or_else(rfc3339_now, |l| l.since),
            });
        }
        changed
    }

    /// Returns whether every process runs and is passing.
    pub(crate) fn is_ready(&self) -> bool {
        self.instances.iter().all(|process| process.pid.is_some() && process.is_passing())
    }

    /// The process of that name.
    pub(crate) fn named(&mut self, name: &str) -> Option<&mut ProcessStatus> {
        self.instances.iter_mut().find(|process| process.name == name)
    }

    /// The content of `mesh.json`.
    pub(crate) fn file(&self, registry: &str, started: &str) -> MeshFile {
        let process = |process: &ProcessStatus| Process {
            name: process.name.clone(),
            admin: Some(process.admin.to_string()),
            service: process.service.name().to_owned(),
            id: process.id.as_ref().map(ToString::to_string),
            address: process.address.to_string(),
            pid: process.pid,
            health: process.entry.as_ref().map(|l| health_name(l.health).to_owned()),
            since: process.entry.as_ref().map(|l| l.since.clone()),
            log: process.log.clone(),
        };
        MeshFile {
            registry: registry.to_owned(),
            pid: std::process::id(),
            started: started.to_owned(),
            instances: self.instances.iter().map(process).collect(),
        }
    }
}

/// The name of a health in outputs that scripts read.
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
        let process = |service, port| {
            let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
            ProcessStatus::new(service, 1, (at(port), at(port + 100)), PathBuf::from("x.log"))
        };
        Overview::new(vec![process(Service::Cart, 50051), process(Service::Order, 50061)])
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
        assert_eq!(overview.apply(Service::Cart, &resolution(InstanceHealth::Critical)), [0]);
        let first = overview.instances[0].entry.clone().unwrap();
        assert_eq!(overview.instances[0].id.as_ref().unwrap().as_str(), "cart-a");
        assert!(overview.apply(Service::Cart, &resolution(InstanceHealth::Critical)).is_empty());
        assert_eq!(overview.instances[0].entry.as_ref().unwrap().since, first.since);
        assert_eq!(overview.apply(Service::Cart, &resolution(InstanceHealth::Passing)), [0]);
        assert_eq!(overview.instances[1].health(), "unlisted");
    }

    #[test]
    fn it_is_ready_when_every_process_runs_and_passes() {
        let mut overview = overview();
        overview.instances.truncate(1);
        overview.apply(Service::Cart, &resolution(InstanceHealth::Passing));
        assert!(!overview.is_ready(), "its process is not there");
        overview.named("cart-service-1").unwrap().pid = Some(1);
        assert!(overview.is_ready());
        overview.apply(Service::Cart, &Resolution::default());
        assert!(overview.is_ready(), "no answer is no news");
        overview.apply(Service::Cart, &Resolution::found(vec![]));
        assert!(!overview.is_ready());
        assert_eq!(overview.instances[0].not_passing_reason(), "not in the registry");
    }
}
