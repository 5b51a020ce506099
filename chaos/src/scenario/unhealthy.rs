//! R8: every instance reports that it is unhealthy, and recovers.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{Load, Mix, ratio},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on failures after the recovery.
const MAX_RECOVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let time = Duration::from_secs(setting.sized(6, 40, 50));
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let from = load.elapsed();
    for replica in &mut testbed.replicas {
        replica.set_behaviour("fail UNAVAILABLE").await?;
        replica.set_behaviour("unhealthy").await?;
    }
    load.run_for(time).await;
    for replica in &mut testbed.replicas {
        replica.set_behaviour("well").await?;
    }
    let cure = load.elapsed();
    for replica in &mut testbed.replicas {
        replica.set_behaviour("healthy").await?;
    }
    load.run_for(setting.warm_up()).await;
    let end = load.elapsed();
    let call_log = load.finish().await?;

    let during = call_log.due(from..cure);
    let attempted = during.all().iter().filter(|call| !call.attempts.is_empty()).count();
    let after = call_log.due(cure..end);
    let last = after.all().iter().filter(|c| c.failure.is_some()).map(|c| c.due - cure).max();
    let first = after.all().iter().filter(|c| c.failure.is_none()).map(|c| c.end() - cure).min();
    let seconds = time.as_secs();
    let mut outcome =
        ScenarioOutcome::of(format!("all three NOT_SERVING and UNAVAILABLE, for {seconds} s"), &call_log);
    outcome.recovered(first.map(|first| first.max(last.unwrap_or_default())));
    let part = ratio(attempted, during.calls());
    outcome.above("calls still attempted", part, 0.95, "channel/pool.rs: panic; policy/throttle.rs");
    outcome.within(
        "first success after the cure",
        first,
        MAX_RECOVERY,
        "health.rs: returning to the ready set",
    );
    outcome.within(
        "last failure after the cure",
        Some(last.unwrap_or_default()),
        MAX_RECOVERY,
        "health/outlier.rs; backoff.rs",
    );
    Ok(outcome)
}
