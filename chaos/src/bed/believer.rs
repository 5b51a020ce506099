//! What discovery is without its doubts, to show that they are needed.

use std::{collections::BTreeMap, sync::Arc};

use registry_client::{
    consul::ConsulResolver,
    instance::{Instance, InstanceHealth, InstanceId, ServiceName},
    resolve::{Resolution, Resolver},
};
use tokio::sync::watch;

/// A resolver that believes what it is told.
#[derive(Debug)]
pub(crate) struct Believer {
    pub(crate) inner: ConsulResolver,
    pub(crate) creed: Creed,
}

/// What is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creed {
    /// Every answer, and that nobody is there when there is none.
    Everything,
    /// That a critical instance must never be called.
    Critical,
}

impl Resolver for Believer {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let mut truth = self.inner.resolve(service);
        let creed = self.creed;
        let (sender, view) = watch::channel(Resolution::default());
        tokio::spawn(async move {
            let mut known = BTreeMap::new();
            truth.mark_changed();
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    changed = truth.changed() => if changed.is_err() { return },
                }
                let now = truth.borrow_and_update().clone();
                sender.send_replace(match creed {
                    Creed::Everything => believed(&now, &mut known),
                    Creed::Critical => strict(now),
                });
            }
        });
        view
    }
}

/// The same set, with everyone out of use who is not in the newest answer.
fn believed(now: &Resolution, known: &mut BTreeMap<InstanceId, Instance>) -> Resolution {
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

/// The same set, with every critical one out of use.
fn strict(mut now: Resolution) -> Resolution {
    let strict = |instance: &Instance| {
        let mut instance = instance.clone();
        if instance.health == InstanceHealth::Critical {
            instance.health = InstanceHealth::Maintenance;
        }
        instance
    };
    now.instances = now.instances.map(|all| all.iter().map(strict).collect());
    now
}
