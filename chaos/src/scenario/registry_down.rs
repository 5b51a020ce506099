//! R14: the registry is down; the last known instances stay in use.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    load::{CallLog, Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, SERVICE, Testbed, passes},
    verdict::ScenarioOutcome,
};

/// The processes that connect to the registry: three replicas and the load.
const PROCESSES: usize = 4;
/// The limit on the time from its return to the previous state.
const MAX_TIME_TO_CONVERGED: Duration = Duration::from_secs(5);
/// The shortest gap without a call that counts as a dropped endpoint.
const MIN_DROPPED_GAP: Duration = Duration::from_secs(1);

/// The measurements of one outage.
struct Outage {
    call_log: CallLog,
    cold: CallLog,
    dropped: usize,
    /// Connection attempts per process and second.
    reconnects: f64,
    time_to_converged: Option<Duration>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let (dev, real) = setting.sized((12, 0), (60, 45), (600, 60));
    let mut outages = vec![outage(&setting, RegistryKind::Dev, dev).await?];
    if real > 0 {
        outages.push(outage(&setting, RegistryKind::Consul, real).await?);
    }
    let all = outages.iter().flat_map(|outage| outage.call_log.all()).cloned().collect();
    let fault = format!("the registry is down: {dev} s of consul-dev, {real} s of a real Consul");
    let mut outcome = ScenarioOutcome::of(fault, &CallLog::new(all));
    for Outage { cold, dropped, reconnects, time_to_converged, .. } in &outages {
        outcome.recovered(*time_to_converged);
        outcome.at_most("dropped endpoints", *dropped, 0, "consul/resolver.rs: the last good set");
        outcome.below("reconnects per process and second", *reconnects, 1.0, "consul/watch/pace.rs");
        let failed = cold.failed(true) + cold.failed(false);
        let what = "failed calls of a cold start without the registry";
        outcome.at_most(what, failed, 0, "snapshot.rs: writing and reading the set");
        outcome.within(
            "converged after its return",
            *time_to_converged,
            MAX_TIME_TO_CONVERGED,
            "consul/registration.rs; consul/watch.rs",
        );
    }
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs");
    Ok(outcome)
}

async fn outage(setting: &ScenarioSetting, kind: RegistryKind, seconds: u64) -> Result<Outage> {
    let time = Duration::from_secs(seconds);
    let mut testbed = Testbed::start(setting, kind, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let from = load.elapsed();
    testbed.registry.kill().await?;
    let cold = cold_start(&testbed).await?;
    load.run_for((time / 2).saturating_sub(setting.warm_up())).await;
    // Connections are refused for half of the time; then they are accepted,
    // counted and closed.
    let counter = ConnectionCounter::open(testbed.registry.address()).await?;
    load.run_for(time / 2).await;
    let reconnects = counter.close() as f64 / (time / 2).as_secs_f64() / PROCESSES as f64;
    testbed.registry.wipe()?;
    testbed.registry.restart().await?;
    let time_to_converged = time_to_converged(&testbed, &load).await;
    load.run_for(setting.warm_up()).await;
    let until = load.elapsed();
    let call_log = load.finish().await?;
    let gaps = testbed.replicas.iter().flat_map(|r| call_log.gaps(&r.id, from..until, MIN_DROPPED_GAP));
    let dropped = gaps.count();
    Ok(Outage { dropped, call_log, cold, reconnects, time_to_converged })
}

/// Starts another client, as a new process would, without a registry and with
/// the snapshot of an earlier process.
async fn cold_start(testbed: &Testbed) -> Result<CallLog> {
    let setting = &testbed.setting;
    let client = testbed.registry.client()?;
    let channel = setting.mesh(client, setting.channel_config())?.channel(SERVICE);
    let load = Load::start(channel, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    load.finish().await
}

/// The time until all are registered and passing again and the load's own view
/// shows that without an error.
async fn time_to_converged(testbed: &Testbed, load: &Load) -> Option<Duration> {
    let began = load.elapsed();
    let mut view = testbed.view();
    let all = async {
        testbed.time_until_listed(3, MAX_TIME_TO_CONVERGED * 4).await[1]?;
        let known =
            view.wait_for(|now| now.error.is_none() && testbed.replicas.iter().all(|r| passes(now, &r.id)));
        known.await.ok().map(drop)
    };
    let all = tokio::time::timeout(MAX_TIME_TO_CONVERGED * 4, all).await.ok().flatten();
    all.map(|()| load.elapsed() - began)
}

/// A listener at the registry's address that counts and closes connections.
struct ConnectionCounter {
    count: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl ConnectionCounter {
    async fn open(at: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).await.context("could not listen on the registry's port")?;
        let count = Arc::new(AtomicUsize::new(0));
        let counting = count.clone();
        let task = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counting.fetch_add(1, Relaxed);
            }
        });
        Ok(Self { count, _task: AbortOnDropHandle::new(task) })
    }

    fn close(self) -> usize {
        self.count.load(Relaxed)
    }
}
