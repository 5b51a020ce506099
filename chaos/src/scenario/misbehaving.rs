//! R5, R6 and R7: one of three is slow, fails at once, or fails half of its
//! calls.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;

use crate::{
    load::{CallLog, Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The shortest gap without a call that counts as an ejection: at 60 calls a
/// second and instance, chance makes none.
const MIN_EJECTION_GAP: Duration = Duration::from_secs(2);

/// The limit on the time to the ejection of an instance whose calls end without
/// a status.
const MAX_DETECTION: Duration = Duration::from_secs(3);

/// A misbehaving instance under load.
struct Trial {
    /// Connections that the channel lost while it misbehaved.
    lost_connections: u64,
    call_log: CallLog,
    victim: InstanceId,
    others: Vec<InstanceId>,
    /// The time of the fault.
    time: Range<Duration>,
    end: Duration,
}

/// Runs three replicas, the last of which has `behaviour` for `time`, and then
/// works again for `after`, or less if it has traffic by then.
async fn trial(setting: &ScenarioSetting, behaviour: &str, time: u64, after: Duration) -> Result<Trial> {
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 3).await?;
    let channel = testbed.channel()?;
    let counters = channel.counters().context("a channel without counters")?;
    let load = Load::start(channel, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let others = testbed.replicas[..2].iter().map(|r| r.id.clone()).collect();
    let replica = &mut testbed.replicas[2];
    let victim = replica.id.clone();
    replica.set_behaviour(behaviour).await?;
    let (from, before) = (load.elapsed(), counters.connections_closed.get());
    load.run_for(Duration::from_secs(time)).await;
    let (until, lost_connections) = (load.elapsed(), counters.connections_closed.get() - before);
    replica.set_behaviour("well").await?;
    // A single response may be to a probe: its traffic is back when more follow.
    let mut successes = 0;
    let has_traffic = |call: &crate::load::CallRecord| {
        successes += usize::from(call.succeeded_on(&victim));
        successes > 20
    };
    if !after.is_zero() {
        let _ = load.wait_for_call(until, after, has_traffic).await;
    }
    let end = load.elapsed();
    Ok(Trial { lost_connections, call_log: load.finish().await?, victim, others, time: from..until, end })
}

pub(super) async fn slow(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let time = setting.sized(10, 40, 60);
    let trial = trial(&setting, "slow 500ms", time, Duration::ZERO).await?;
    let later = trial.time.start + Duration::from_secs(5)..trial.time.end;
    let mut outcome =
        ScenarioOutcome::of(format!("one of three answers 500 ms later, for {time} s"), &trial.call_log);
    let share = trial.call_log.due(later).share(&trial.victim);
    outcome.below("its share after 5 s", share, 0.10, "balance/least_request.rs");
    Ok(outcome)
}

pub(super) async fn failing(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let time = setting.sized(10, 55, 60);
    let trial = trial(&setting, "fail INTERNAL", time, Duration::ZERO).await?;
    let later = trial.time.start + Duration::from_secs(1)..trial.time.end;
    let mut outcome =
        ScenarioOutcome::of(format!("one of three answers INTERNAL at once, for {time} s"), &trial.call_log);
    let first = trial.call_log.gaps(&trial.victim, trial.time.clone(), MIN_EJECTION_GAP).into_iter().next();
    outcome.detected(first.map(|gap| gap.start - trial.time.start));
    let share = trial.call_log.due(later).share(&trial.victim);
    outcome.below("its share after 1 s", share, 0.05, "health/outlier.rs: consecutive failures");
    // The same few failures weigh more in a short run.
    let min = setting.sized(0.99, 0.999, 0.999);
    outcome.above(
        "success",
        trial.call_log.success_ratio(),
        min,
        "health/outlier.rs; balance.rs: errors that look fast",
    );
    Ok(outcome)
}

/// Runs with one of three whose calls all end without a gRPC status.
pub(super) async fn without_status(setting: ScenarioSetting, behaviour: &str) -> Result<ScenarioOutcome> {
    let time = setting.sized(6, 20, 60);
    let trial = trial(&setting, behaviour, time, Duration::ZERO).await?;
    let mut outcome =
        ScenarioOutcome::of(format!("one of three: `{behaviour}`, for {time} s"), &trial.call_log);
    let first = trial.call_log.gaps(&trial.victim, trial.time.clone(), MIN_EJECTION_GAP).into_iter().next();
    outcome.detected(first.map(|gap| gap.start - trial.time.start));
    let later = trial.call_log.due(trial.time.start + MAX_DETECTION..trial.time.end);
    let failed = 1.0 - later.success_ratio();
    outcome.below("failed calls once it should be ejected, of all", failed, 0.01, "channel/call/outcome.rs");
    let share = later.share(&trial.victim);
    outcome.below("its share of them", share, 0.05, "health/outlier.rs: consecutive failures");
    let lost_connections = usize::try_from(trial.lost_connections).unwrap_or(usize::MAX);
    outcome.at_most(
        "connections lost",
        lost_connections,
        0,
        "channel/connection.rs: one stream that ends all others",
    );
    Ok(outcome)
}

pub(super) async fn half(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    Box::pin(half_with(setting, "half INTERNAL")).await
}

/// Runs with one of three that ends half of its calls with `behaviour`.
pub(super) async fn half_with(setting: ScenarioSetting, behaviour: &str) -> Result<ScenarioOutcome> {
    let time = setting.sized(15, 30, 60);
    let (out, back) = (Duration::from_secs(10), Duration::from_secs(60));
    let trial = trial(&setting, behaviour, time, back).await?;
    let mut outcome = ScenarioOutcome::of(
        format!("one of three fails half of its calls, for {time} s: `{behaviour}`"),
        &trial.call_log,
    );
    let gaps = trial.call_log.gaps(&trial.victim, trial.time.clone(), MIN_EJECTION_GAP);
    let ejected = gaps.first().map(|gap| gap.start - trial.time.start);
    let returned = time_to_usual_traffic(&trial.call_log, &trial.victim, trial.time.end..trial.end);
    outcome.detected(ejected);
    outcome.recovered(returned);
    outcome.within("ejected after", ejected, out, "health/outlier.rs");
    outcome.within("returned after its cure", returned, back, "health/outlier.rs: the ejection's time");
    let healthy = trial
        .others
        .iter()
        .flat_map(|id| trial.call_log.gaps(id, setting.warm_up()..trial.end, MIN_EJECTION_GAP));
    outcome.at_most(
        "ejections of healthy ones",
        healthy.count(),
        0,
        "health/outlier.rs: the instances that are counted",
    );
    Ok(outcome)
}

/// The time from the start of `time` until an instance has its usual traffic:
/// ten responses within a second.
fn time_to_usual_traffic(call_log: &CallLog, id: &InstanceId, time: Range<Duration>) -> Option<Duration> {
    let mut ends: Vec<_> =
        call_log.due(time.clone()).filter(|c| c.succeeded_on(id)).all().iter().map(|c| c.due).collect();
    ends.sort_unstable();
    let busy = ends.windows(10).find(|ten| ten[9] - ten[0] < Duration::from_secs(1))?;
    Some(busy[9].saturating_sub(time.start))
}
