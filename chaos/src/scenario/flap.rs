//! R19: an instance fails for a second, is well for a second, and so on.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{Load, Mix},
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// How long it fails, and how long it is well.
const PHASE: Duration = Duration::from_secs(1);
/// A time without a send that is an ejection: longer than it is ever well.
const EJECTED: Duration = Duration::from_secs(3);
/// By how much the longest ejection must exceed the first.
const GROWTH: f64 = 1.5;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let times = setting.sized(12, 35, 60);
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let victim = testbed.replicas[0].id.clone();
    let from = load.elapsed();
    for _ in 0..times {
        for order in ["fail UNAVAILABLE", "well"] {
            testbed.replicas[0].set_behaviour(order).await?;
            load.run_for(PHASE).await;
        }
    }
    let until = load.elapsed();
    let call_log = load.finish().await?;

    let mut outcome =
        ScenarioOutcome::of(format!("one of three fails and is well, 1 s each, {times} times"), &call_log);
    let gaps = call_log.gaps(&victim, from..until, EJECTED);
    // The last is cut short by the end.
    let whole: Vec<_> =
        gaps.iter().filter(|gap| gap.end < until).map(|gap| (gap.end - gap.start).as_secs_f64()).collect();
    outcome.detected(gaps.first().map(|gap| gap.start.saturating_sub(from)));
    let first = whole.first().copied().unwrap_or_default();
    let longest = whole.iter().copied().fold(0.0, f64::max);
    let said: Vec<_> = whole.iter().map(|gap| format!("{gap:.1} s")).collect();
    outcome.figure(
        "ejections, one after the other",
        said.join(", "),
        format!("the longest ≥ {GROWTH} times the first"),
        whole.len() > 1 && longest >= first * GROWTH,
        "health/outlier.rs: the multiplier",
    );
    outcome.at_most("failed idempotent calls", outcome.failed_idempotent, 0, "channel/call.rs: retries");
    Ok(outcome)
}
