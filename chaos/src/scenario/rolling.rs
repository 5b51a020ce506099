//! R2: every instance is restarted, one after the other.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on the time from a restart to traffic.
const MAX_RECOVERY: Duration = Duration::from_secs(20);
/// The limit on an instance's stop.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let rounds = setting.sized(1, 5, 5);
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let mut slowest = Duration::ZERO;
    let mut recovery = Duration::ZERO;
    for _ in 0..rounds {
        for replica in &mut testbed.replicas {
            slowest = slowest.max(replica.stop().await?);
            replica.restart()?;
            let restarted = load.elapsed();
            let id = replica.id.clone();
            let first_response =
                load.wait_for_call(restarted, MAX_RECOVERY, |call| call.succeeded_on(&id)).await?;
            recovery = recovery.max(first_response.end() - restarted);
        }
    }
    let call_log = load.finish().await?;
    let mut outcome =
        ScenarioOutcome::of(format!("{rounds} rolling restarts of three by SIGTERM"), &call_log);
    outcome.recovered(Some(recovery));
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls of any kind", failed, 0, "server.rs: the order of the drain");
    outcome.within("slowest exit", Some(slowest), EXIT_TIMEOUT, "server.rs: the waits of the drain");
    Ok(outcome)
}
