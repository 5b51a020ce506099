//! The agents behind a load balancer.
//!
//! Each request may reach another agent, and an entry belongs to the agent that
//! accepted it: the instance would be registered on each of them, counted more
//! than once, and left behind on those that its deregistration does not reach.
//! The catalog lists the nodes of an instance; different responses to the same
//! request distinguish a load balancer from an entry that an earlier process
//! left at another agent.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::catalog;
use crate::consul::{Client, Error, ServiceSpec};

/// The requests, each on a new connection, that detect whether there is more
/// than one agent.
const PROBE_REQUESTS: usize = 8;
/// The most requests that are sent to reach every agent that knows the
/// instance. With five agents behind a random balancer, one of them is missed
/// once in a thousand times.
const MAX_TRIES: usize = 32;
/// The most reads of the catalog to verify a deregistration.
const MAX_ROUNDS: usize = 4;

/// The agents of one instance. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub(super) struct Agents {
    /// A client that uses a new connection for each request.
    client: Client,
    spec: Arc<ServiceSpec>,
    /// True if there is more than one agent.
    several: Arc<AtomicBool>,
    /// True if an entry of an earlier process was logged.
    logged_stale: Arc<AtomicBool>,
}

impl Agents {
    pub(super) fn new(client: &Client, spec: &Arc<ServiceSpec>) -> Self {
        let client = client.on_new_connections();
        Self { client, spec: spec.clone(), several: Arc::default(), logged_stale: Arc::default() }
    }

    /// Returns whether requests reach more than one agent.
    pub(super) fn has_several(&self) -> bool {
        self.several.load(Relaxed)
    }

    /// Records the nodes that the catalog lists for the instance; if they are
    /// several agents behind a balancer, the instance is deregistered from all
    /// but one.
    pub(super) async fn update(&self, nodes: &BTreeSet<String>) {
        if nodes.len() < 2 {
            return;
        }
        let (id, addr) = (&self.spec.id, self.client.addr());
        let names = nodes.iter().map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ");
        if !self.has_several() {
            if !self.agents_differ().await {
                self.log_stale(&names);
                return;
            }
            self.several.store(true, Relaxed);
            tracing::warn!(
                %id, %addr,
                "Consul at {addr} is a balancer before several agents: instance `{id}` was registered on the nodes \
                 {names}, and stays on one of them. An instance belongs to one agent: set CONSUL_HTTP_ADDR to the \
                 agent of this machine, usually 127.0.0.1:8500"
            );
        }
        let result = self.run_on(nodes.len() - 1, || self.client.deregister(id)).await;
        if let Err(e) = result {
            tracing::debug!(%id, "failed to deregister `{id}` from all nodes but one: {e}");
        }
    }

    /// Logs once that an earlier process left its entry at another agent.
    fn log_stale(&self, names: &str) {
        if !self.logged_stale.swap(true, Relaxed) {
            let (id, addr) = (&self.spec.id, self.client.addr());
            tracing::warn!(
                %id, %addr,
                "instance `{id}` is listed on the nodes {names}, and the agent at {addr} is only one of them: an \
                 earlier process registered at another agent. Run `consul services deregister -id={id}` on the \
                 other node"
            );
        }
    }

    /// Returns whether different agents respond to the same request.
    async fn agents_differ(&self) -> bool {
        let check = self.spec.check_id();
        let mut nodes = BTreeSet::new();
        for _ in 0..PROBE_REQUESTS {
            let Ok(checks) = self.client.checks().await else { continue };
            nodes.insert(checks.get(&check).map(|check| check.node.clone()));
            if nodes.len() > 1 {
                return true;
            }
        }
        false
    }

    /// Repeats an action until it has succeeded on `number` agents. Those that
    /// do not know the instance respond with 404.
    async fn run_on<F: Future<Output = Result<(), Error>>>(
        &self,
        number: usize,
        mut run_on: impl FnMut() -> F,
    ) -> Result<(), Error> {
        let (mut succeeded, mut not_found) = (0, None);
        for _ in 0..MAX_TRIES {
            match run_on().await {
                Ok(()) => succeeded += 1,
                Err(e) if e.is_not_found() => not_found = Some(e),
                Err(e) => return Err(e),
            }
            if succeeded >= number {
                return Ok(());
            }
        }
        not_found.map_or(Ok(()), Err)
    }

    /// Sends an order to every agent that knows the instance; `run_on` is given
    /// the client to send it by.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none of them was reached, or any other.
    pub(super) async fn on_every_agent<F: Future<Output = Result<(), Error>>>(
        &self,
        run_on: impl Fn(Client) -> F,
    ) -> Result<(), Error> {
        let nodes = catalog::fetch(&self.client, &self.spec).await.nodes.len();
        self.run_on(nodes.max(1), || run_on(self.client.clone())).await
    }

    /// Deregisters the instance from every agent that knows it.
    ///
    /// # Errors
    /// Any [`Error`].
    ///
    /// # Cancel safety
    /// Deregistrations up to then stay in effect.
    pub(super) async fn deregister(&self) -> Result<(), Error> {
        for _ in 0..MAX_ROUNDS {
            let nodes = catalog::fetch(&self.client, &self.spec).await.nodes;
            // An entry that an earlier process left at another agent is out of
            // reach.
            if nodes.is_empty() || !(self.has_several() || self.agents_differ().await) {
                return Ok(());
            }
            self.run_on(nodes.len(), || self.client.deregister(&self.spec.id)).await?;
        }
        Ok(())
    }
}
