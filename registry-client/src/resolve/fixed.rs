//! A resolver with a fixed set of instances.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Resolution, Resolver};
use crate::instance::{Address, Instance, ServiceName};

/// A resolver with the same set for every service: the given one, or the last
/// one that was [`set`](Self::set). For tests, and for peers without a
/// registry.
///
/// Clones share the set.
#[derive(Clone, Debug)]
pub struct FixedResolver {
    view: Arc<watch::Sender<Resolution>>,
}

impl FixedResolver {
    /// A resolver with a passing instance of weight 1 for each address, with
    /// the address as its id.
    pub fn new<A: Into<Address>>(addresses: impl IntoIterator<Item = A>) -> Self {
        let instance = |address: Address| Instance::new(&address.to_string(), address);
        Self::with(addresses.into_iter().map(Into::into).map(instance))
    }

    /// A resolver with these instances.
    pub fn with(instances: impl IntoIterator<Item = Instance>) -> Self {
        let found = Resolution::found(instances.into_iter().collect::<Vec<_>>());
        Self { view: Arc::new(watch::Sender::new(found)) }
    }

    /// A resolver without a response yet, which is how every other begins.
    #[must_use]
    pub fn unresolved() -> Self {
        Self { view: Arc::new(watch::Sender::new(Resolution::default())) }
    }

    /// Replaces the instances.
    pub fn set(&self, instances: impl IntoIterator<Item = Instance>) {
        let found = Resolution::found(instances.into_iter().collect::<Vec<_>>());
        self.view.send_if_modified(|now| {
            let changed = *now != found;
            *now = found;
            changed
        });
    }

    /// Reports a failed look-up; the instances stay as they were.
    pub fn fail(&self, words: &str) {
        self.view.send_if_modified(|now| now.fail(words));
    }
}

impl Resolver for FixedResolver {
    fn resolve(&self, _: &ServiceName) -> watch::Receiver<Resolution> {
        self.view.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_reported_and_changes_only_when_it_does() {
        let resolver = FixedResolver::new(["127.0.0.1:1".parse::<Address>().unwrap()]);
        let mut view = resolver.resolve(&"any".parse().unwrap());
        let first = view.borrow_and_update().instances.clone().unwrap();
        assert_eq!(first[0].id.as_str(), "127.0.0.1:1");
        resolver.set(first.iter().cloned());
        assert!(!view.has_changed().unwrap());
        resolver.fail("gone");
        let now = view.borrow_and_update().clone();
        assert_eq!((now.instances.unwrap().len(), now.error.as_deref()), (1, Some("gone")));
        resolver.set([]);
        assert_eq!(*view.borrow_and_update(), Resolution::found(Vec::new()));
    }
}
