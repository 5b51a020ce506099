//! The reconciliation of a pool with the registry: instances that join, move,
//! or are no longer listed.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tracing::info;

use super::{
    super::{
        connection::{ConnectSettings, Observer},
        health_check::HealthCheckConfig,
        keepalive::InstancePings,
        peer::Peer,
        subchannel::Subchannel,
    },
    Pool, UNLISTED_TIMEOUT, UNLISTED_TIMEOUT_AFTER_COLLAPSE,
    member::{Member, Warming},
};
use crate::{
    balance::{Load, slow_start},
    health::{Damping, EjectionState, Record},
    instance::{HEALTH_SERVICE, Instance, InstanceHealth, InstanceId},
    policy::limit::CallLimit,
};

impl Pool {
    /// Reconciles the members with the newest set of the registry.
    pub(super) fn reconcile(&mut self) {
        let resolution = self.resolution.borrow_and_update().clone();
        let Some(listed) = resolution.instances else { return };
        let listed: BTreeMap<&InstanceId, &Instance> = listed.iter().map(|i| (&i.id, i)).collect();

        let before = self.members.values().filter(|m| m.unlisted.is_none()).count();
        // First, because an instance at another address or under another id has
        // not left.
        for instance in listed.values() {
            self.upsert(instance, &listed);
        }
        let absent =
            self.members.iter().filter(|(id, m)| m.unlisted.is_none() && !listed.contains_key(id)).count();
        let collapsed = absent * 2 > before;
        let until =
            Instant::now() + if collapsed { UNLISTED_TIMEOUT_AFTER_COLLAPSE } else { UNLISTED_TIMEOUT };
        for (id, member) in &mut self.members {
            if member.unlisted.is_none() && !listed.contains_key(id) {
                member.unlisted = Some(until);
                member.subchannel.set_expect_success(false);
            }
        }
        if absent > 0 {
            let service = &self.service;
            info!(%service, absent, of = before, "{absent} of {before} instances of `{service}` left the registry; those that are connected are kept for a while");
        }
        self.evict_expired();
    }

    /// Inserts or updates one instance of the registry.
    fn upsert(&mut self, instance: &Instance, listed: &BTreeMap<&InstanceId, &Instance>) {
        let health = self.health_query(instance);
        // A process with another health check is another version.
        if let Some(member) = self.members.get_mut(&instance.id)
            && member.instance.address == instance.address
            && member.health == health
        {
            let recovered = instance.health == InstanceHealth::Passing
                && member.instance.health != InstanceHealth::Passing;
            let news = recovered || member.unlisted.is_some();
            member.unlisted = None;
            member.instance = instance.clone();
            member.pings.learn(instance, self.config.keepalive_min);
            member.subchannel.set_expect_success(instance.health == InstanceHealth::Passing);
            if news {
                member.subchannel.reset_backoff();
            }
            return;
        }
        // New, or moved to another address: connections to the old one finish.
        self.generations += 1;
        let predecessor = self.members.remove(&instance.id).or_else(|| self.predecessor(instance, listed));
        let (load, record, ejection, damping) = match predecessor {
            Some(member) => (member.load, member.record, member.ejection, member.damping),
            None => {
                let limit = self.config.service_config.instance_limit;
                let limit = limit.map(|limit| CallLimit::new(instance.id.as_str(), limit));
                let load = Arc::new(Load::limited(limit));
                let record = Arc::new(Record::new(self.rules.clone(), load.clone()));
                (load, record, EjectionState::default(), Damping::default())
            }
        };
        let pings = Arc::new(InstancePings::new(self.pings.clone()));
        pings.learn(instance, self.config.keepalive_min);
        let observed = (load.clone(), Observer::Record(record.clone()));
        let subchannel = self.connect_to(instance, observed, health.clone(), pings.clone());
        subchannel.set_expect_success(instance.health == InstanceHealth::Passing);
        let member = Member {
            instance: instance.clone(),
            generation: self.generations,
            pings,
            load,
            record,
            ejection,
            damping,
            probe_slot: None,
            probe_started: None,
            health,
            health_probe: None,
            // The first instances have no others to take the load meanwhile.
            warming: if self.was_healthy { Warming::Waiting } else { Warming::Done },
            tenths: slow_start::FULL_TENTHS,
            subchannel,
            unlisted: None,
        };
        self.members.insert(instance.id.clone(), member);
    }

    /// Starts connecting to `instance`.
    fn connect_to(
        &self,
        instance: &Instance,
        observed: (Arc<Load>, Observer),
        health: Option<HealthCheckConfig>,
        pings: Arc<InstancePings>,
    ) -> Subchannel {
        let peer = Peer { id: instance.id.clone(), address: instance.address.clone() };
        let (connector, config) = (self.connector.clone(), self.config.clone());
        let settings = ConnectSettings { connector, config, pings };
        Subchannel::start(peer, self.generations, observed, health, settings, self.to_pool.clone())
    }

    /// The health check of `instance`: with the configured service name, or
    /// else the one that it registered.
    fn health_query(&self, instance: &Instance) -> Option<HealthCheckConfig> {
        let configured = Some(&self.config.health_service).filter(|name| !name.is_empty());
        let service = configured.or_else(|| instance.meta.get(HEALTH_SERVICE));
        let service = service.map(String::as_str).unwrap_or_default().into();
        self.health.clone().map(|uri| HealthCheckConfig { uri, service })
    }

    /// Removes the member that `instance` was before: the same process under
    /// another id, or else the same entry at another address.
    fn predecessor(
        &mut self,
        instance: &Instance,
        listed: &BTreeMap<&InstanceId, &Instance>,
    ) -> Option<Member> {
        let gone = || self.members.iter().filter(|(id, _)| !listed.contains_key(id));
        let same_process = gone().find(|(_, m)| m.instance.address == instance.address);
        let registered = instance.id.registered();
        let same_entry = || gone().find(|(id, m)| m.unlisted.is_none() && id.registered() == registered);
        let id = same_process.or_else(same_entry).map(|(id, _)| id.clone())?;
        self.members.remove(&id)
    }
}
