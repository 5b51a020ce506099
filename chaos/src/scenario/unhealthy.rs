//! R8: every instance says that it is unhealthy, and is cured.

use std::time::Duration;

use anyhow::Result;

use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix, ratio},
    verdict::Outcome,
};

/// How long after the cure a call may still fail.
const CURED: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let time = Duration::from_secs(setting.sized(6, 40, 50));
    let mut bed = Bed::start(&setting, Kind::Dev, 3).await?;
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let from = load.now();
    for replica in &mut bed.replicas {
        replica.behave("fail UNAVAILABLE").await?;
        replica.behave("unhealthy").await?;
    }
    load.go_on(time).await;
    for replica in &mut bed.replicas {
        replica.behave("well").await?;
    }
    let cure = load.now();
    for replica in &mut bed.replicas {
        replica.behave("healthy").await?;
    }
    load.go_on(setting.warm_up()).await;
    let end = load.now();
    let seen = load.finish().await?;

    let during = seen.due(from..cure);
    let attempted = during.all().iter().filter(|call| !call.attempts.is_empty()).count();
    let after = seen.due(cure..end);
    let last = after.all().iter().filter(|c| c.failure.is_some()).map(|c| c.due - cure).max();
    let first = after.all().iter().filter(|c| c.failure.is_none()).map(|c| c.end() - cure).min();
    let seconds = time.as_secs();
    let mut outcome = Outcome::of(format!("all three NOT_SERVING and UNAVAILABLE, for {seconds} s"), &seen);
    outcome.recovered(first.map(|first| first.max(last.unwrap_or_default())));
    let part = ratio(attempted, during.calls());
    outcome.above("calls still attempted", part, 0.95, "channel/pool.rs: panic; policy/throttle.rs");
    outcome.within("first success after the cure", first, CURED, "health.rs: who keeps them out?");
    outcome.within(
        "last failure after the cure",
        Some(last.unwrap_or_default()),
        CURED,
        "health/outlier.rs; backoff.rs",
    );
    Ok(outcome)
}
