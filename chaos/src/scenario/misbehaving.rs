//! R5, R6 and R7: one of three is slow, fails at once, or fails half of its
//! calls.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;

use crate::{
    load::{CallLog, Load, Mix},
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// A time without a send that is longer than chance makes one: at 60 calls a
/// second and instance, ejected.
const EJECTED: Duration = Duration::from_secs(2);

/// How long an instance may take to be ejected whose calls end without a
/// status.
const OUT: Duration = Duration::from_secs(3);

/// A misbehaving instance under load.
struct Trial {
    /// Connections that the channel lost while it misbehaved.
    lost: u64,
    call_log: CallLog,
    victim: InstanceId,
    others: Vec<InstanceId>,
    /// From the fault to its cure.
    time: Range<Duration>,
    end: Duration,
}

/// Three replicas, of which the last does as `order` says for `time`, and
/// then well again for `after`, or less if it has traffic again by then.
async fn trial(setting: &ScenarioSetting, order: &str, time: u64, after: Duration) -> Result<Trial> {
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 3).await?;
    let channel = testbed.channel()?;
    let counters = channel.counters().context("a channel without counters")?;
    let load = Load::start(channel, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let others = testbed.replicas[..2].iter().map(|r| r.id.clone()).collect();
    let replica = &mut testbed.replicas[2];
    let victim = replica.id.clone();
    replica.set_behaviour(order).await?;
    let (from, before) = (load.elapsed(), counters.connections_closed.get());
    load.run_for(Duration::from_secs(time)).await;
    let (until, lost) = (load.elapsed(), counters.connections_closed.get() - before);
    replica.set_behaviour("well").await?;
    // What it answers once is perhaps a probe: its traffic is back when more follows.
    let mut answers = 0;
    let again = |call: &crate::load::CallRecord| {
        answers += usize::from(call.succeeded_on(&victim));
        answers > 20
    };
    if !after.is_zero() {
        let _ = load.wait_for_call(until, after, again).await;
    }
    let end = load.elapsed();
    Ok(Trial { lost, call_log: load.finish().await?, victim, others, time: from..until, end })
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
    let first = trial.call_log.gaps(&trial.victim, trial.time.clone(), EJECTED).into_iter().next();
    outcome.detected(first.map(|gap| gap.start - trial.time.start));
    let share = trial.call_log.due(later).share(&trial.victim);
    outcome.below("its share after 1 s", share, 0.05, "health/outlier.rs: consecutive failures");
    // The same few failures weigh more in a short run.
    let least = setting.sized(0.99, 0.999, 0.999);
    outcome.above(
        "success",
        trial.call_log.success_ratio(),
        least,
        "health/outlier.rs; balance.rs: does an error look fast?",
    );
    Ok(outcome)
}

/// Every call of one of three ends in that way, which carries no gRPC status.
pub(super) async fn without_status(setting: ScenarioSetting, order: &str) -> Result<ScenarioOutcome> {
    let time = setting.sized(6, 20, 60);
    let trial = trial(&setting, order, time, Duration::ZERO).await?;
    let mut outcome = ScenarioOutcome::of(format!("one of three: `{order}`, for {time} s"), &trial.call_log);
    let first = trial.call_log.gaps(&trial.victim, trial.time.clone(), EJECTED).into_iter().next();
    outcome.detected(first.map(|gap| gap.start - trial.time.start));
    let later = trial.call_log.due(trial.time.start + OUT..trial.time.end);
    let failed = 1.0 - later.success_ratio();
    outcome.below("failed calls once it should be ejected, of all", failed, 0.01, "channel/call/outcome.rs");
    let share = later.share(&trial.victim);
    outcome.below("its share of them", share, 0.05, "health/outlier.rs: consecutive failures");
    let lost = usize::try_from(trial.lost).unwrap_or(usize::MAX);
    outcome.at_most("connections lost", lost, 0, "channel/connection.rs: does one stream end them all?");
    Ok(outcome)
}

pub(super) async fn half(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    Box::pin(half_of(setting, "half INTERNAL")).await
}

/// One of three ends half of its calls as `order` says.
pub(super) async fn half_of(setting: ScenarioSetting, order: &str) -> Result<ScenarioOutcome> {
    let time = setting.sized(15, 30, 60);
    let (out, back) = (Duration::from_secs(10), Duration::from_secs(60));
    let trial = trial(&setting, order, time, back).await?;
    let mut outcome = ScenarioOutcome::of(
        format!("one of three fails half of its calls, for {time} s: `{order}`"),
        &trial.call_log,
    );
    let gaps = trial.call_log.gaps(&trial.victim, trial.time.clone(), EJECTED);
    let ejected = gaps.first().map(|gap| gap.start - trial.time.start);
    let returned = traffic(&trial.call_log, &trial.victim, trial.time.end..trial.end);
    outcome.detected(ejected);
    outcome.recovered(returned);
    outcome.within("ejected after", ejected, out, "health/outlier.rs");
    outcome.within("returned after its cure", returned, back, "health/outlier.rs: the ejection's time");
    let healthy =
        trial.others.iter().flat_map(|id| trial.call_log.gaps(id, setting.warm_up()..trial.end, EJECTED));
    outcome.at_most("ejections of healthy ones", healthy.count(), 0, "health/outlier.rs: who is counted?");
    Ok(outcome)
}

/// How long after the beginning of `time` an instance has its usual traffic:
/// ten answers within a second.
fn traffic(call_log: &CallLog, id: &InstanceId, time: Range<Duration>) -> Option<Duration> {
    let mut ends: Vec<_> =
        call_log.due(time.clone()).filter(|c| c.succeeded_on(id)).all().iter().map(|c| c.due).collect();
    ends.sort_unstable();
    let busy = ends.windows(10).find(|ten| ten[9] - ten[0] < Duration::from_secs(1))?;
    Some(busy[9].saturating_sub(time.start))
}
