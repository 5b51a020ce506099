//! A balancer between an instance and several agents.
//!
//! Each request may reach another agent, and an entry belongs to the agent that
//! took it: the instance would be registered on each of them, counted more than
//! once, and left behind where its deregistration does not arrive. The
//! catalogue tells on which nodes an instance stands; answers of different
//! agents to the same question tell a balancer from an entry that an earlier
//! process left at an agent of its own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::catalogue;
use crate::consul::{Client, Error, ServiceSpec};

/// So many agents are asked, each on a new connection, to find out whether
/// there is more than one.
const PROBES: usize = 8;
/// So many requests are sent to reach the agents that know the instance. With
/// five agents behind a balancer that chooses at random, one of them is missed
/// once in a thousand times.
const MAX_TRIES: usize = 32;
/// So often the catalogue is asked whether a deregistration left anything.
const MAX_ROUNDS: usize = 4;

/// What is known of the agents of one instance. Cheap to clone; clones share
/// what they know.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// Each of its requests goes out on a connection of its own.
    client: Client,
    spec: Arc<ServiceSpec>,
    /// True if there is more than one agent.
    seen: Arc<AtomicBool>,
    /// True if an entry of an earlier process has been complained of.
    complained: Arc<AtomicBool>,
}

impl Spread {
    pub(super) fn new(client: &Client, spec: &Arc<ServiceSpec>) -> Self {
        let client = client.on_new_connections();
        Self { client, spec: spec.clone(), seen: Arc::default(), complained: Arc::default() }
    }

    /// Returns whether requests reach more than one agent.
    pub(super) fn is_seen(&self) -> bool {
        self.seen.load(Relaxed)
    }

    /// Takes note that the catalogue lists the instance on these nodes; where
    /// they are several agents behind a balancer, all but one are told to
    /// forget it.
    pub(super) async fn look(&self, nodes: &BTreeSet<String>) {
        if nodes.len() < 2 {
            return;
        }
        let (id, addr) = (&self.spec.id, self.client.addr());
        let names = nodes.iter().map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ");
        if !self.is_seen() {
            if !self.agents_differ().await {
                self.complain(&names);
                return;
            }
            self.seen.store(true, Relaxed);
            tracing::warn!(
                %id, %addr,
                "Consul at {addr} is a balancer before several agents: instance `{id}` was registered on the nodes \
                 {names}, and stays on one of them. An instance belongs to one agent: set CONSUL_HTTP_ADDR to the \
                 agent of this machine, usually 127.0.0.1:8500"
            );
        }
        let forgotten = self.order(nodes.len() - 1, || self.client.deregister(id)).await;
        if let Err(e) = forgotten {
            tracing::debug!(%id, "`{id}` could not be deregistered from all nodes but one: {e}");
        }
    }

    /// Says once that an earlier process left its entry at another agent.
    fn complain(&self, names: &str) {
        if !self.complained.swap(true, Relaxed) {
            let (id, addr) = (&self.spec.id, self.client.addr());
            tracing::warn!(
                %id, %addr,
                "instance `{id}` is listed on the nodes {names}, and the agent at {addr} is only one of them: an \
                 earlier process registered at another agent. Run `consul services deregister -id={id}` on the \
                 other node"
            );
        }
    }

    /// Returns whether different agents answer the same question.
    async fn agents_differ(&self) -> bool {
        let check = self.spec.check_id();
        let mut nodes = BTreeSet::new();
        for _ in 0..PROBES {
            let Ok(checks) = self.client.checks().await else { continue };
            nodes.insert(checks.get(&check).map(|check| check.node.clone()));
            if nodes.len() > 1 {
                return true;
            }
        }
        false
    }

    /// Sends an order until `number` agents have carried it out. Those that do
    /// not know the instance refuse it.
    async fn order<F: Future<Output = Result<(), Error>>>(
        &self,
        number: usize,
        mut order: impl FnMut() -> F,
    ) -> Result<(), Error> {
        let (mut done, mut refused) = (0, None);
        for _ in 0..MAX_TRIES {
            match order().await {
                Ok(()) => done += 1,
                Err(e) if e.is_not_found() => refused = Some(e),
                Err(e) => return Err(e),
            }
            if done >= number {
                return Ok(());
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends an order to every agent that knows the instance; `order` is given
    /// the client to send it by.
    ///
    /// # Errors
    /// The last refusal when none of them was reached, or any other failure.
    pub(super) async fn everywhere<F: Future<Output = Result<(), Error>>>(
        &self,
        order: impl Fn(Client) -> F,
    ) -> Result<(), Error> {
        let nodes = catalogue::ask(&self.client, &self.spec).await.nodes.len();
        self.order(nodes.max(1), || order(self.client.clone())).await
    }

    /// Deregisters the instance from every agent that knows it.
    ///
    /// # Errors
    /// Any [`Error`].
    ///
    /// # Cancel safety
    /// What was deregistered by then stays so.
    pub(super) async fn deregister(&self) -> Result<(), Error> {
        for _ in 0..MAX_ROUNDS {
            let nodes = catalogue::ask(&self.client, &self.spec).await.nodes;
            // One that an earlier process left at another agent is out of reach.
            if nodes.is_empty() || !(self.is_seen() || self.agents_differ().await) {
                return Ok(());
            }
            self.order(nodes.len(), || self.client.deregister(&self.spec.id)).await?;
        }
        Ok(())
    }
}
