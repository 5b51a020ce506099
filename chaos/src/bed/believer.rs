//! What discovery is without its doubts, to show that they are needed: every
//! answer is believed, and a failed look-up means that nobody is there.

use std::{collections::BTreeMap, sync::Arc};

use registry_client::{
    consul::ConsulResolver,
    instance::{Health, Instance, InstanceId, ServiceName},
    resolve::{Resolution, Resolver},
};
use tokio::sync::watch;

/// A resolver that believes everything.
#[derive(Debug)]
pub(crate) struct Believer(pub(crate) ConsulResolver);

impl Resolver for Believer {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let mut truth = self.0.resolve(service);
        let (sender, view) = watch::channel(Resolution::default());
        tokio::spawn(async move {
            let mut known = BTreeMap::new();
            truth.mark_changed();
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    changed = truth.changed() => if changed.is_err() { return },
                }
                sender.send_replace(believed(&truth.borrow_and_update(), &mut known));
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
        instance.health = Health::Maintenance;
    }
    known.extend(listed.iter().map(|instance| (instance.id.clone(), instance.clone())));
    if now.instances.is_none() && now.error.is_none() {
        return Resolution::default();
    }
    Resolution::found(known.values().cloned().collect::<Vec<_>>())
}
