//! A resolver without the library's safeguards, to show that they are needed.

use std::{collections::BTreeMap, sync::Arc};

use registry_client::{
    consul::ConsulResolver,
    instance::{Instance, InstanceHealth, InstanceId, ServiceName},
    resolve::{Resolution, Resolver},
};
use tokio::sync::watch;

/// A resolver that trusts every response of the registry.
#[derive(Debug)]
pub(crate) struct TrustingResolver {
    pub(crate) inner: ConsulResolver,
    pub(crate) level: Trust,
}

/// The responses that are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Every response; an error means that there is no instance.
    EveryResponse,
    /// The state critical: such an instance is never called.
    Critical,
}

impl Resolver for TrustingResolver {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let mut view = self.inner.resolve(service);
        let level = self.level;
        let (sender, exposed) = watch::channel(Resolution::default());
        tokio::spawn(async move {
            let mut known = BTreeMap::new();
            view.mark_changed();
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    changed = view.changed() => if changed.is_err() { return },
                }
                let now = view.borrow_and_update().clone();
                sender.send_replace(match level {
                    Trust::EveryResponse => without_stale_set(&now, &mut known),
                    Trust::Critical => without_critical(now),
                });
            }
        });
        exposed
    }
}

/// The same set, with each instance in maintenance that is not in the latest
/// response.
fn without_stale_set(now: &Resolution, known: &mut BTreeMap<InstanceId, Instance>) -> Resolution {
    let listed: Arc<[Instance]> = match (&now.instances, &now.error) {
        (Some(listed), None) => listed.clone(),
        _ => Arc::default(),
    };
    for instance in known.values_mut() {
        instance.health = InstanceHealth::Maintenance;
    }
    known.extend(listed.iter().map(|instance| (instance.id.clone(), instance.clone())));
    if now.instances.is_none() && now.error.is_none() {
        return Resolution::default();
    }
    Resolution::found(known.values().cloned().collect::<Vec<_>>())
}

/// The same set, with each critical instance in maintenance.
fn without_critical(mut now: Resolution) -> Resolution {
    let without_critical = |instance: &Instance| {
        let mut instance = instance.clone();
        if instance.health == InstanceHealth::Critical {
            instance.health = InstanceHealth::Maintenance;
        }
        instance
    };
    now.instances = now.instances.map(|all| all.iter().map(without_critical).collect());
    now
}
