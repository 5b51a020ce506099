//! R18: what an agent forgets, or somebody else removes, is registered again.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::lies::unguarded;
use crate::{
    load::{Load, Mix},
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// How long an instance may take to pass again.
const PASSING: Duration = Duration::from_secs(2);
/// How long it may take to be registered again.
const REGISTERED: Duration = Duration::from_secs(5);
/// By how much an agent that does not answer may hold up a shutdown.
const BLOCKED: Duration = Duration::from_secs(2);
/// How long each is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let guarded = !setting.is_disabled("registration loop");
    let mut testbed = Testbed::start(&setting, RegistryKind::Consul, if guarded { 3 } else { 0 }).await?;
    if !guarded {
        unguarded(&mut testbed).await?;
    }
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;

    let stopped = testbed.replicas[0].stop().await?;
    testbed.replicas[0].restart()?;
    testbed.time_until_listed(3, PATIENCE).await;

    let victim = testbed.replicas[0].id.to_string();
    testbed.consul.deregister(&victim).await?;
    let [_, foreign] = testbed.time_until_listed(3, PATIENCE).await;
    load.run_for(setting.warm_up()).await;

    testbed.registry.kill().await?;
    testbed.registry.restart().await?;
    let [_, restarted] = testbed.time_until_listed(3, PATIENCE).await;
    load.run_for(setting.warm_up()).await;

    testbed.registry.kill().await?;
    testbed.registry.wipe()?;
    testbed.registry.restart().await?;
    let [wiped, wiped_passing] = testbed.time_until_listed(3, PATIENCE).await;
    load.run_for(setting.warm_up()).await;

    // Hung is worse than gone: whatever is sent to it is taken, and never answered.
    testbed.registry.child()?.signal(Signal::STOP)?;
    let hung = testbed.replicas[1].stop().await?;
    testbed.registry.child()?.signal(Signal::CONT)?;
    testbed.registry.kill().await?;
    let gone = testbed.replicas[2].stop().await?;
    let call_log = load.finish().await?;

    let mut outcome = ScenarioOutcome::of(
        "a real Consul restarted, wiped, hung, gone; a foreign deregistration",
        &call_log,
    );
    outcome.recovered(foreign.max(restarted).max(wiped_passing));
    let look = "consul/registration/reconcile.rs";
    outcome.within("passing again after a foreign deregistration", foreign, PASSING, look);
    outcome.within("passing again after the agent's restart", restarted, PASSING, look);
    outcome.within("registered again after the agent was wiped", wiped, REGISTERED, look);
    let most = stopped + BLOCKED;
    outcome.within("shutdown while the agent hangs", Some(hung), most, "server/listing.rs");
    outcome.within("shutdown while the agent is gone", Some(gone), most, "server/listing.rs");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: unlisted instances; server.rs: the drain");
    Ok(outcome)
}
