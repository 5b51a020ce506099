//! The registrations of this agent, and the writes of their changes to the
//! catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{AgentState, CapacityExceeded, MAX_REGISTERED};
use crate::model::{Check, CheckStatus, Service};
use crate::probe::{Probe, TaskGuard};

/// The services and checks of this agent, by id.
#[derive(Debug, Default)]
pub(crate) struct LocalState {
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) checks: BTreeMap<String, LocalCheck>,
}

/// A check with its probe and timers.
#[derive(Debug)]
pub(crate) struct LocalCheck {
    pub(crate) check: Check,
    /// The time since which it has been critical.
    critical_since: Option<Instant>,
    /// The time in the critical state after which its service is removed.
    reap_after: Option<Duration>,
    /// The task that writes changed output to the catalog later; see
    /// [`AgentState::update_check`].
    deferred: Option<TaskGuard>,
    /// The probe; `None` for maintenance.
    pub(crate) probe: Option<Probe>,
}

/// A check to register.
#[derive(Debug)]
pub(crate) struct NewCheck {
    pub(crate) check: Check,
    pub(crate) reap_after: Option<Duration>,
    pub(crate) probe: Option<Probe>,
}

impl LocalState {
    /// The checks of the node and of the service with this id.
    pub(crate) fn checks_of<'a>(&'a self, service_id: &'a str) -> impl Iterator<Item = &'a Check> {
        self.checks
            .values()
            .map(|local| &local.check)
            .filter(move |check| check.service_id.is_empty() || check.service_id == service_id)
    }
}

impl AgentState {
    /// Registers a service with its checks. Known checks keep their status and output.
    ///
    /// With `replace`, the service's other checks are removed, an operator's maintenance among them.
    ///
    /// # Errors
    /// When a limit is reached; then nothing has changed.
    pub(crate) fn register_service(
        &mut self,
        service: Service,
        checks: Vec<NewCheck>,
        replace: bool,
    ) -> Result<(), CapacityExceeded> {
        let id = service.id.clone();
        if self.local.services.len() >= MAX_REGISTERED && !self.local.services.contains_key(&id) {
            return Err(CapacityExceeded { max: MAX_REGISTERED, resource: "services" });
        }
        self.ensure_capacity(&checks)?;
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
    /// When a limit is reached; then nothing has changed.
    pub(crate) fn register_check(&mut self, new: NewCheck) -> Result<(), CapacityExceeded> {
        let id = new.check.id.clone();
        self.ensure_capacity(std::slice::from_ref(&new))?;
        self.insert_check(new);
        self.push_check(&id);
        Ok(())
    }

    fn ensure_capacity(&self, checks: &[NewCheck]) -> Result<(), CapacityExceeded> {
        let unknown = checks.iter().filter(|new| !self.local.checks.contains_key(&new.check.id)).count();
        if self.local.checks.len() + unknown > MAX_REGISTERED {
            return Err(CapacityExceeded { max: MAX_REGISTERED, resource: "checks" });
        }
        Ok(())
    }

    /// Removes a service and its checks; returns whether there was one.
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

    /// Removes a check and ends its probe; returns whether there was one.
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
    /// A new status is written to the catalog immediately. Output alone would wake every watcher for nothing:
    /// it stays here, and `defer` creates the task that calls [`AgentState::push_check`] some minutes later.
    pub(crate) fn update_check(
        &mut self,
        id: &str,
        status: CheckStatus,
        output: String,
        defer: impl FnOnce() -> TaskGuard,
    ) {
        let Some(local) = self.local.checks.get_mut(id) else { return };
        if status == CheckStatus::Critical {
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

    /// The services with a check that has been critical for long enough.
    pub(crate) fn services_to_reap(&self) -> BTreeSet<String> {
        let due = |local: &&LocalCheck| match (local.critical_since, local.reap_after) {
            (Some(since), Some(after)) => !local.check.service_id.is_empty() && since.elapsed() > after,
            _ => false,
        };
        self.local.checks.values().filter(due).map(|local| local.check.service_id.clone()).collect()
    }

    /// Writes a check to the catalog if it differs there.
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
        if new.check.status == CheckStatus::Critical {
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
        if self.catalog.service(id).is_none_or(|known| !is_same_registration(known, &service)) {
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

/// Returns whether the catalog's record equals the registration, as Consul's servers compare them: the catalog
/// adds addresses of its own, and a different locality alone is ignored.
fn is_same_registration(known: &Service, registered: &Service) -> bool {
    let mut known = known.clone();
    known.locality.clone_from(&registered.locality);
    if registered.native {
        known.tagged_addresses.retain(|tag, _| !tag.starts_with("consul-"));
    }
    known == *registered
}
