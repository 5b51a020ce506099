//! The catalog: services and checks for discovery, with the indexes that blocking queries wait on.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::model::{CONSUL_VERSION, Check, CheckStatus, Node, SERF_CHECK, Service, TaggedAddress};

/// The limit on names of removed services that are kept for their watchers.
const MAX_REMOVED_NAMES: usize = 4096;

/// A record with the indexes of its creation and of its last change.
#[derive(Debug, Clone)]
pub(crate) struct Indexed<T> {
    pub(crate) value: T,
    pub(crate) create: u64,
    pub(crate) modify: u64,
}

/// Services and checks of the node.
#[derive(Debug)]
pub(crate) struct Catalog {
    services: BTreeMap<String, Indexed<Service>>,
    checks: BTreeMap<String, Indexed<Check>>,
    /// The last change of any instance of a service that exists, by its name in ASCII lower case.
    by_name: HashMap<String, u64>,
    /// The last change of removed services, oldest first.
    removed_names: VecDeque<(String, u64)>,
    nodes_index: u64,
    services_index: u64,
    checks_index: u64,
    /// The index at which a service last lost its last instance.
    last_removal: Option<u64>,
    /// The virtual address of each Connect-native service, by its name in ASCII lower case.
    virtual_ips: BTreeMap<String, u32>,
    pub(crate) node_create: u64,
}

impl Catalog {
    /// A catalog that holds the agent's own node, its liveness check and the service `consul`.
    pub(super) fn new(node: &Node, index: u64) -> Self {
        let mut catalog = Self {
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            by_name: HashMap::new(),
            removed_names: VecDeque::new(),
            nodes_index: index,
            services_index: index,
            checks_index: index,
            last_removal: None,
            virtual_ips: BTreeMap::new(),
            node_create: index,
        };
        let meta = [("version", CONSUL_VERSION)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        catalog.put_service(
            index,
            Service {
                id: "consul".into(),
                name: "consul".into(),
                port: i64::from(node.port),
                meta: Some(meta.into()),
                ..Service::default()
            },
        );
        catalog.put_check(
            index,
            Check {
                id: SERF_CHECK.into(),
                name: "Serf Health Status".into(),
                status: CheckStatus::Passing,
                output: "Agent alive and reachable".into(),
                ..Check::default()
            },
        );
        catalog
    }

    /// Every service, in the order of their ids.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Indexed<Service>> {
        self.services.values()
    }

    /// The instances of the service called `name`, ignoring case.
    pub(crate) fn instances(&self, name: &str) -> impl Iterator<Item = &Indexed<Service>> {
        self.services.values().filter(move |service| service.value.name.eq_ignore_ascii_case(name))
    }

    /// Every check, in the order of their ids.
    pub(crate) fn checks(&self) -> impl Iterator<Item = &Indexed<Check>> {
        self.checks.values()
    }

    /// The checks of the node, then those of the service with this id.
    pub(crate) fn checks_of(&self, service_id: &str) -> impl Iterator<Item = &Indexed<Check>> {
        let of_node = self.checks.values().filter(|check| check.value.service_id.is_empty());
        let of_service = self.checks.values().filter(move |check| check.value.service_id == service_id);
        of_node.chain(of_service)
    }

    pub(super) fn service(&self, id: &str) -> Option<&Service> {
        self.services.get(id).map(|found| &found.value)
    }

    pub(super) fn check(&self, id: &str) -> Option<&Check> {
        self.checks.get(id).map(|found| &found.value)
    }

    /// The index of a read of one service: its own if it exists, else that of the last removal of a service.
    pub(crate) fn service_index(&self, name: &str) -> u64 {
        match self.by_name.get(&name.to_ascii_lowercase()) {
            Some(&index) => index,
            None => self
                .last_removal
                .unwrap_or_else(|| self.nodes_index.max(self.services_index).max(self.checks_index)),
        }
    }

    /// The index of the last change of the service called `name`; 0 if there was none.
    pub(crate) fn last_change(&self, name: &str) -> u64 {
        let name = name.to_ascii_lowercase();
        let removed_names = || {
            self.removed_names
                .iter()
                .find(|(removed_names, _)| *removed_names == name)
                .map(|&(_, index)| index)
        };
        self.by_name.get(&name).copied().or_else(removed_names).unwrap_or(0)
    }

    pub(crate) fn services_index(&self) -> u64 {
        self.services_index
    }

    pub(crate) fn checks_index(&self) -> u64 {
        self.checks_index
    }

    pub(crate) fn nodes_index(&self) -> u64 {
        self.nodes_index
    }

    pub(super) fn put_service(&mut self, index: u64, mut service: Service) {
        if service.native {
            let address = self.virtual_ip(&service.name);
            service
                .tagged_addresses
                .insert("consul-virtual".into(), TaggedAddress { address, port: service.port });
        }
        let previous = self.services.get(&service.id);
        let create = previous.map_or(index, |previous| previous.create);
        let renamed = previous
            .filter(|previous| !previous.value.name.eq_ignore_ascii_case(&service.name))
            .map(|previous| previous.value.name.clone());
        self.touch(&service.name, index);
        self.services.insert(service.id.clone(), Indexed { value: service, create, modify: index });
        if let Some(old) = renamed {
            self.after_removal(&old, index);
        }
        self.services_index = index;
        self.nodes_index = index;
    }

    pub(super) fn remove_service(&mut self, index: u64, id: &str) {
        let Some(removed) = self.services.remove(id) else { return };
        let checks = self.checks.len();
        self.checks.retain(|_, check| check.value.service_id != id);
        if self.checks.len() != checks {
            self.checks_index = index;
        }
        self.after_removal(&removed.value.name, index);
        self.services_index = index;
        self.nodes_index = index;
    }

    pub(super) fn put_check(&mut self, index: u64, check: Check) {
        let previous = self.checks.get(&check.id);
        let create = previous.map_or(index, |previous| previous.create);
        let moved_from = previous
            .filter(|previous| previous.value.service_id != check.service_id)
            .map(|previous| previous.value.service_name.clone());
        self.touch_owner(&check.service_name, index);
        if let Some(previous_owner) = moved_from {
            self.touch_owner(&previous_owner, index);
        }
        self.checks.insert(check.id.clone(), Indexed { value: check, create, modify: index });
        self.checks_index = index;
    }

    pub(super) fn remove_check(&mut self, index: u64, id: &str) {
        let Some(removed) = self.checks.remove(id) else { return };
        self.touch_owner(&removed.value.service_name, index);
        if removed.value.service_name.is_empty() {
            self.services_index = index;
        }
        self.checks_index = index;
    }

    /// Marks a service as changed; a check without a service touches all of them.
    fn touch_owner(&mut self, service_name: &str, index: u64) {
        if service_name.is_empty() {
            self.by_name.values_mut().for_each(|last| *last = index);
        } else if let Some(last) = self.by_name.get_mut(&service_name.to_ascii_lowercase()) {
            *last = index;
        }
    }

    fn touch(&mut self, name: &str, index: u64) {
        let name = name.to_ascii_lowercase();
        self.removed_names.retain(|(removed_names, _)| *removed_names != name);
        self.by_name.insert(name, index);
    }

    fn after_removal(&mut self, name: &str, index: u64) {
        if self.instances(name).next().is_some() {
            self.touch(name, index);
            return;
        }
        let name = name.to_ascii_lowercase();
        self.by_name.remove(&name);
        self.virtual_ips.remove(&name);
        if self.removed_names.len() == MAX_REMOVED_NAMES {
            self.removed_names.pop_front();
        }
        self.removed_names.push_back((name, index));
        self.last_removal = Some(index);
    }

    fn virtual_ip(&mut self, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        let used = &mut self.virtual_ips;
        let number = used.get(&name).copied().unwrap_or_else(|| {
            let free = (1..).find(|number| !used.values().any(|taken| taken == number)).unwrap_or(1);
            used.insert(name, free);
            free
        });
        std::net::Ipv4Addr::from(0xf000_0000 + number).to_string()
    }
}
