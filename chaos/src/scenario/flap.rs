//! R19: an instance fails for a second, is well for a second, and so on.

use std::time::Duration;

use anyhow::Result;

use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix},
    verdict::Outcome,
};

/// How long it fails, and how long it is well.
const PHASE: Duration = Duration::from_secs(1);
/// A time without a send that is an ejection: longer than it is ever well.
const EJECTED: Duration = Duration::from_secs(3);
/// By how much the longest ejection must exceed the first.
const GROWTH: f64 = 1.5;

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let times = setting.sized(12, 35, 60);
    let mut bed = Bed::start(&setting, Kind::Dev, 3).await?;
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let victim = bed.replicas[0].id.clone();
    let from = load.now();
    for _ in 0..times {
        for order in ["fail UNAVAILABLE", "well"] {
            bed.replicas[0].behave(order).await?;
            load.go_on(PHASE).await;
        }
    }
    let until = load.now();
    let seen = load.finish().await?;

    let mut outcome = Outcome::of(format!("one of three fails and is well, 1 s each, {times} times"), &seen);
    let gaps = seen.gaps(&victim, from..until, EJECTED);
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
