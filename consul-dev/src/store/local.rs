//! What was registered with this agent, and how its changes reach the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{AgentFull, MAX_REGISTERED, State};
use crate::checks::{Probe, TaskGuard};
use crate::model::{Check, Service, Status};

/// The services and checks of this agent, by id.
#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) checks: BTreeMap<String, LocalCheck>,
}

/// A check with what keeps it going.
#[derive(Debug)]
pub(crate) struct LocalCheck {
    pub(crate) check: Check,
    /// Since when it has been critical without a break.
    critical_since: Option<Instant>,
    /// After how long of that its service is removed.
    reap_after: Option<Duration>,
    /// Writes changed output to the catalog after a while; see [`State::update_check`].
    deferred: Option<TaskGuard>,
    /// `None` for maintenance, which nothing probes.
    pub(crate) probe: Option<Probe>,
}

/// A check to register.
#[derive(Debug)]
pub(crate) struct NewCheck {
    pub(crate) check: Check,
    pub(crate) reap_after: Option<Duration>,
    pub(crate) probe: Option<Probe>,
}

impl Local {
    /// The checks of the node and of the service with this id.
    pub(crate) fn checks_of<'a>(&'a self, service_id: &'a str) -> impl Iterator<Item = &'a Check> {
        self.checks
            .values()
            .map(|local| &local.check)
            .filter(move |check| check.service_id.is_empty() || check.service_id == service_id)
    }
}

impl State {
    /// Registers a service with its checks. Those that were known keep their status and output.
    ///
    /// With `replace`, the service's other checks are removed, an operator's maintenance among them.
    ///
    /// # Errors
    /// When the agent is full; then nothing has changed.
    pub(crate) fn register_service(
        &mut self,
        service: Service,
        checks: Vec<NewCheck>,
        replace: bool,
    ) -> Result<(), AgentFull> {
        let id = service.id.clone();
        if self.local.services.len() >= MAX_REGISTERED && !self.local.services.contains_key(&id) {
            return Err(AgentFull { most: MAX_REGISTERED, of: "services" });
        }
        self.room_for(&checks)?;
        let known: Vec<String> = checks.iter().map(|new| new.check.id.clone()).collect();
        self.local.services.insert(id.clone(), service);
        for new in checks {
            self.insert_check(new);
        }
        self.push_service(&id);
        if replace {
            let others: Vec<String> = self
                .local
                .checks
                .values()
                .filter(|local| local.check.service_id == id && !known.contains(&local.check.id))
                .map(|local| local.check.id.clone())
                .collect();
            for other in others {
                self.remove_check(&other);
            }
        }
        Ok(())
    }

    /// Registers one check; if its id is known it keeps its status and output.
    ///
    /// # Errors
    /// When the agent is full; then nothing has changed.
    pub(crate) fn register_check(&mut self, new: NewCheck) -> Result<(), AgentFull> {
        let id = new.check.id.clone();
        self.room_for(std::slice::from_ref(&new))?;
        self.insert_check(new);
        self.push_check(&id);
        Ok(())
    }

    fn room_for(&self, checks: &[NewCheck]) -> Result<(), AgentFull> {
        let unknown = checks.iter().filter(|new| !self.local.checks.contains_key(&new.check.id)).count();
        if self.local.checks.len() + unknown > MAX_REGISTERED {
            return Err(AgentFull { most: MAX_REGISTERED, of: "checks" });
        }
        Ok(())
    }

    /// Removes a service and its checks; says whether there was one.
    pub(crate) fn remove_service(&mut self, id: &str) -> bool {
        if self.local.services.remove(id).is_none() {
            return false;
        }
        // Dropping a check ends its probe.
        self.local.checks.retain(|_, local| local.check.service_id != id);
        let index = self.next_index();
        self.catalog.remove_service(index, id);
        true
    }

    /// Removes a check and ends its probe; says whether there was one.
    pub(crate) fn remove_check(&mut self, id: &str) -> bool {
        if self.local.checks.remove(id).is_none() {
            return false;
        }
        let index = self.next_index();
        self.catalog.remove_check(index, id);
        true
    }

    /// Sets a check's status and output.
    ///
    /// A new status is in the catalog at once. Output alone is not: it would wake every watcher for nothing. It
    /// stays here, and `defer` makes the task that calls [`State::push_check`] some minutes later.
    pub(crate) fn update_check(
        &mut self,
        id: &str,
        status: Status,
        output: String,
        defer: impl FnOnce() -> TaskGuard,
    ) {
        let Some(local) = self.local.checks.get_mut(id) else { return };
        if status == Status::Critical {
            local.critical_since.get_or_insert_with(Instant::now);
        } else {
            local.critical_since = None;
        }
        let same_status = local.check.status == status;
        if same_status && local.check.output == output {
            return;
        }
        local.check.status = status;
        local.check.output = output;
        if same_status {
            local.deferred.get_or_insert_with(defer);
        } else {
            self.push_check(id);
        }
    }

    /// The services that some check has declared dead for long enough.
    pub(crate) fn services_to_reap(&self) -> BTreeSet<String> {
        let due = |local: &&LocalCheck| match (local.critical_since, local.reap_after) {
            (Some(since), Some(after)) => !local.check.service_id.is_empty() && since.elapsed() > after,
            _ => false,
        };
        self.local.checks.values().filter(due).map(|local| local.check.service_id.clone()).collect()
    }

    /// Writes a check to the catalog if that has another state of it.
    pub(crate) fn push_check(&mut self, id: &str) {
        let Some(local) = self.local.checks.get_mut(id) else { return };
        local.deferred = None;
        if self.catalog.check(id) != Some(&local.check) {
            let check = local.check.clone();
            let index = self.next_index();
            self.catalog.put_check(index, check);
        }
    }

    fn insert_check(&mut self, mut new: NewCheck) {
        let previous = self.local.checks.remove(&new.check.id);
        let mut critical_since = None;
        if let Some(previous) = previous {
            new.check.status = previous.check.status;
            new.check.output = previous.check.output;
            critical_since = previous.critical_since;
        }
        if new.check.status == Status::Critical {
            critical_since.get_or_insert_with(Instant::now);
        }
        let local = LocalCheck {
            check: new.check,
            critical_since,
            reap_after: new.reap_after,
            deferred: None,
            probe: new.probe,
        };
        self.local.checks.insert(local.check.id.clone(), local);
    }

    /// Writes a service and its checks to the catalog, under one index if the service itself changed.
    fn push_service(&mut self, id: &str) {
        let Some(service) = self.local.services.get(id).cloned() else { return };
        let of_service = |local: &LocalCheck| local.check.service_id == id;
        let checks: Vec<String> = self
            .local
            .checks
            .values()
            .filter(|local| of_service(local))
            .map(|local| local.check.id.clone())
            .collect();
        if self.catalog.service(id).is_none_or(|known| !same_registration(known, &service)) {
            let index = self.next_index();
            self.catalog.put_service(index, service);
            for check in self.local.checks.values_mut().filter(|local| of_service(local)) {
                check.deferred = None;
                if self.catalog.check(&check.check.id) != Some(&check.check) {
                    self.catalog.put_check(index, check.check.clone());
                }
            }
            return;
        }
        for check in checks {
            self.push_check(&check);
        }
    }
}

/// Whether the catalog's record says what was registered, as Consul's servers compare it: the catalog adds
/// addresses of its own, and a locality that differs alone is no difference, so the catalog keeps the one it has.
fn same_registration(known: &Service, registered: &Service) -> bool {
    let mut known = known.clone();
    known.locality.clone_from(&registered.locality);
    if registered.native {
        known.tagged_addresses.retain(|tag, _| !tag.starts_with("consul-"));
    }
    known == *registered
}
