//! R18: a registration that an agent loses, or another client removes, is
//! restored.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::lies::add_unguarded;
use crate::{
    load::{Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on the time until an instance passes again.
const MAX_TIME_TO_PASSING: Duration = Duration::from_secs(2);
/// The limit on the time until an instance is registered again.
const MAX_TIME_TO_REGISTERED: Duration = Duration::from_secs(5);
/// The limit on the time that an unresponsive agent delays a shutdown.
const MAX_BLOCKING: Duration = Duration::from_secs(2);
/// The limit on each wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let has_registration_loop = !setting.is_disabled("registration loop");
    let mut testbed =
        Testbed::start(&setting, RegistryKind::Consul, if has_registration_loop { 3 } else { 0 }).await?;
    if !has_registration_loop {
        add_unguarded(&mut testbed).await?;
    }
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;

    let stopped = testbed.replicas[0].stop().await?;
    testbed.replicas[0].restart()?;
    testbed.time_until_listed(3, WAIT_TIMEOUT).await;

    let victim = testbed.replicas[0].id.to_string();
    testbed.consul.deregister(&victim).await?;
    let [_, foreign] = testbed.time_until_listed(3, WAIT_TIMEOUT).await;
    load.run_for(setting.warm_up()).await;

    testbed.registry.kill().await?;
    testbed.registry.restart().await?;
    let [_, restarted] = testbed.time_until_listed(3, WAIT_TIMEOUT).await;
    load.run_for(setting.warm_up()).await;

    testbed.registry.kill().await?;
    testbed.registry.wipe()?;
    testbed.registry.restart().await?;
    let [wiped, wiped_passing] = testbed.time_until_listed(3, WAIT_TIMEOUT).await;
    load.run_for(setting.warm_up()).await;

    // A hung agent is worse than a dead one: it accepts requests and never
    // responds.
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
    outcome.within("passing again after a foreign deregistration", foreign, MAX_TIME_TO_PASSING, look);
    outcome.within("passing again after the agent's restart", restarted, MAX_TIME_TO_PASSING, look);
    outcome.within("registered again after the agent was wiped", wiped, MAX_TIME_TO_REGISTERED, look);
    let max = stopped + MAX_BLOCKING;
    outcome.within("shutdown while the agent hangs", Some(hung), max, "server/registration.rs");
    outcome.within("shutdown while the agent is gone", Some(gone), max, "server/registration.rs");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: unlisted instances; server.rs: the drain");
    Ok(outcome)
}
