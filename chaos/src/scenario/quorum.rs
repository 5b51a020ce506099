//! R17: Consul's servers lose their leader, and then their quorum.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    load::{Load, Mix},
    setting::ScenarioSetting,
    testbed::{ConsulCluster, FakeRegistry, FakeResponse, Registry, Testbed, passes},
    verdict::ScenarioOutcome,
};

/// The shortest gap without a call that counts as a dropped endpoint.
const MIN_DROPPED_GAP: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let kills = setting.sized(1, 5, 5);
    let quorum_loss = Duration::from_secs(setting.sized(5, 15, 30));
    let mut consul_cluster = ConsulCluster::start(&setting).await?;
    // Queries go to a surviving server: recovering from a dead one is the agent's task.
    let fake_registry = FakeRegistry::in_front_of(consul_cluster.first()).await?;
    if setting.is_disabled("stale reads") {
        fake_registry.respond_with(FakeResponse::Consistent);
    }
    let registry = Registry::running_at(fake_registry.address(), &setting)?;
    let testbed = Testbed::with_registry(&setting, registry, consul_cluster.hosts.gateway(), 3).await?;
    let lookup_failures = LookupFailures::watch(&testbed);
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let from = load.elapsed();
    let mut elections = Duration::ZERO;
    for _ in 0..kills {
        let leader = consul_cluster.other_leader().await?;
        let began = Instant::now();
        consul_cluster.kill(leader).await?;
        consul_cluster.leader().await?;
        elections = elections.max(began.elapsed());
        consul_cluster.restart(leader)?;
        load.run_for(setting.warm_up()).await;
    }
    for n in [1, 2] {
        consul_cluster.kill(n).await?;
    }
    load.run_for(quorum_loss).await;
    for n in [1, 2] {
        consul_cluster.restart(n)?;
    }
    consul_cluster.leader().await?;
    load.run_for(setting.warm_up()).await;
    let until = load.elapsed();
    let call_log = load.finish().await?;

    let fault = format!(
        "leader of three Consul servers killed {kills} times, quorum lost for {} s",
        quorum_loss.as_secs()
    );
    let mut outcome = ScenarioOutcome::of(fault, &call_log);
    outcome.recovered(Some(elections));
    let gaps = testbed.replicas.iter().flat_map(|r| call_log.gaps(&r.id, from..until, MIN_DROPPED_GAP));
    outcome.at_most("dropped endpoints", gaps.count(), 0, "consul/resolver.rs: the last good set");
    let lookup_failures = lookup_failures.failed();
    outcome.at_most("failed reads", lookup_failures.len(), 0, "consul/resolver.rs");
    outcome.failures.extend(lookup_failures.into_iter().take(5));
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs");
    Ok(outcome)
}

/// Records look-ups that failed or were incomplete.
struct LookupFailures {
    failed: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl LookupFailures {
    fn watch(testbed: &Testbed) -> Self {
        let failed = Arc::<Mutex<Vec<String>>>::default();
        let (mut view, failures) = (testbed.view(), failed.clone());
        let ids: Vec<_> = testbed.replicas.iter().map(|r| r.id.clone()).collect();
        let task = tokio::spawn(async move {
            while view.changed().await.is_ok() {
                let now = view.borrow_and_update();
                let missing =
                    || ids.iter().find(|id| !passes(&now, id)).map(|id| format!("{id} is not passing"));
                if let Some(why) = now.error.as_ref().map(ToString::to_string).or_else(missing) {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(why);
                }
            }
        });
        Self { failed, _task: AbortOnDropHandle::new(task) }
    }

    /// The reason of each failure.
    fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
