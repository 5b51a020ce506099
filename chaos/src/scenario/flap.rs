//! R19: an instance alternates between failing and working, a second each.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The time for which it fails, and for which it works.
const PHASE: Duration = Duration::from_secs(1);
/// The shortest gap without a call that counts as an ejection; longer than a
/// working phase.
const MIN_EJECTION_GAP: Duration = Duration::from_secs(3);
/// The smallest ratio of the longest ejection to the first.
const MIN_GROWTH: f64 = 1.5;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let times = setting.sized(12, 35, 60);
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let victim = testbed.replicas[0].id.clone();
    let from = load.elapsed();
    for _ in 0..times {
        for behaviour in ["fail UNAVAILABLE", "well"] {
            testbed.replicas[0].set_behaviour(behaviour).await?;
            load.run_for(PHASE).await;
        }
    }
    let until = load.elapsed();
    let call_log = load.finish().await?;

    let mut outcome =
        ScenarioOutcome::of(format!("one of three fails and is well, 1 s each, {times} times"), &call_log);
    let gaps = call_log.gaps(&victim, from..until, MIN_EJECTION_GAP);
    // The last ejection is cut short by the end of the load.
    let complete: Vec<_> =
        gaps.iter().filter(|gap| gap.end < until).map(|gap| (gap.end - gap.start).as_secs_f64()).collect();
    outcome.detected(gaps.first().map(|gap| gap.start.saturating_sub(from)));
    let first = complete.first().copied().unwrap_or_default();
    let longest = complete.iter().copied().fold(0.0, f64::max);
    let lengths: Vec<_> = complete.iter().map(|gap| format!("{gap:.1} s")).collect();
    outcome.figure(
        "ejections, one after the other",
        lengths.join(", "),
        format!("the longest ≥ {MIN_GROWTH} times the first"),
        complete.len() > 1 && longest >= first * MIN_GROWTH,
        "health/outlier.rs: the multiplier",
    );
    outcome.at_most("failed idempotent calls", outcome.failed_idempotent, 0, "channel/call.rs: retries");
    Ok(outcome)
}
