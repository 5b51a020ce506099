//! R17: Consul's servers lose their leader, and then their quorum.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    bed::{Bed, Liar, Lie, Registry, Servers, Setting, passes},
    load::{Load, Mix},
    verdict::Outcome,
};

/// A time without a send that means that an endpoint was dropped.
const DROPPED: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let kills = setting.sized(1, 5, 5);
    let lost = Duration::from_secs(setting.sized(5, 15, 30));
    let mut servers = Servers::start(&setting).await?;
    // A surviving server is asked: what an agent asks of a dead one is Consul's to mend.
    let liar = Liar::before(servers.first()).await?;
    if setting.lacks("stale reads") {
        liar.tell(Lie::Consistent);
    }
    let registry = Registry::elsewhere(liar.address(), &setting)?;
    let bed = Bed::around(&setting, registry, servers.hosts.gateway(), 3).await?;
    let reads = Reads::watch(&bed);
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let from = load.now();
    let mut elections = Duration::ZERO;
    for _ in 0..kills {
        let leader = servers.other_leader().await?;
        let began = Instant::now();
        servers.kill(leader).await?;
        servers.leader().await?;
        elections = elections.max(began.elapsed());
        servers.begin(leader)?;
        load.go_on(setting.warm_up()).await;
    }
    for n in [1, 2] {
        servers.kill(n).await?;
    }
    load.go_on(lost).await;
    for n in [1, 2] {
        servers.begin(n)?;
    }
    servers.leader().await?;
    load.go_on(setting.warm_up()).await;
    let until = load.now();
    let seen = load.finish().await?;

    let fault =
        format!("leader of three Consul servers killed {kills} times, quorum lost for {} s", lost.as_secs());
    let mut outcome = Outcome::of(fault, &seen);
    outcome.recovered(Some(elections));
    let gaps = bed.replicas.iter().flat_map(|r| seen.gaps(&r.id, from..until, DROPPED));
    outcome.at_most("dropped endpoints", gaps.count(), 0, "consul/resolver.rs: the last good set");
    let reads = reads.failed();
    outcome.at_most("failed reads", reads.len(), 0, "consul/resolver.rs");
    outcome.failures.extend(reads.into_iter().take(5));
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs");
    Ok(outcome)
}

/// Counts how often a look-up failed or said less than all.
struct Reads {
    failed: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Reads {
    fn watch(bed: &Bed) -> Self {
        let failed = Arc::<Mutex<Vec<String>>>::default();
        let (mut view, counting) = (bed.view(), failed.clone());
        let ids: Vec<_> = bed.replicas.iter().map(|r| r.id.clone()).collect();
        let task = tokio::spawn(async move {
            while view.changed().await.is_ok() {
                let now = view.borrow_and_update();
                let missing =
                    || ids.iter().find(|id| !passes(&now, id)).map(|id| format!("{id} is not passing"));
                if let Some(why) = now.error.as_ref().map(ToString::to_string).or_else(missing) {
                    counting.lock().unwrap_or_else(PoisonError::into_inner).push(why);
                }
            }
        });
        Self { failed, _task: AbortOnDropHandle::new(task) }
    }

    /// Why, of each.
    fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
