//! R10: what triggers an overload goes away, and so must the overload.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{CallLog, Load, Mix},
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// Calls that one replica works on at once, and how long each takes.
const SLOTS: (&str, &str) = ("1", "20ms");
/// How many calls a second three replicas so get done.
const CAPACITY: u32 = 150;
/// The usual load: 80 % of it.
const RATE: u32 = CAPACITY * 4 / 5;
/// How many times the usual load comes while that is the trigger.
const TIMES: u32 = 3;
/// The part of the goodput before that must be there again.
const BACK: f64 = 0.95;
/// How long after the trigger it may take.
const WITHIN: Duration = Duration::from_secs(10);
/// Goodput is looked at over so long.
const GOODPUT_WINDOW: Duration = Duration::from_secs(2);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut outcome = ScenarioOutcome::default();
    for (name, is_load) in [("three times the load", true), ("ten times the latency", false)] {
        outcome.add(name, one(&setting, is_load).await?);
    }
    outcome.fault = format!(
        "three times the load, then ten times the latency, for {} s each",
        trigger(&setting).as_secs()
    );
    Ok(outcome)
}

fn trigger(setting: &ScenarioSetting) -> Duration {
    Duration::from_secs(setting.sized(4, 10, 10))
}

async fn one(setting: &ScenarioSetting, is_load: bool) -> Result<ScenarioOutcome> {
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 0).await?;
    for _ in 0..3 {
        testbed.add(&["--slots", SLOTS.0, "--work", SLOTS.1])?;
    }
    testbed.all_passing().await?;
    let load = Load::at_rate(testbed.channel()?, Mix::Reads, RATE)?;
    load.run_for(setting.warm_up()).await;
    let before = load.elapsed();
    load.run_for(setting.warm_up() * 2).await;
    let from = load.elapsed();
    if is_load {
        let more = Load::at_rate(testbed.channel()?, Mix::Reads, RATE * (TIMES - 1))?;
        more.run_for(trigger(setting)).await;
        drop(more);
    } else {
        for replica in &mut testbed.replicas {
            replica.set_behaviour("slow 180ms").await?;
        }
        load.run_for(trigger(setting)).await;
        for replica in &mut testbed.replicas {
            replica.set_behaviour("well").await?;
        }
    }
    let cured = load.elapsed();
    load.run_for(WITHIN + GOODPUT_WINDOW * 2).await;
    let end = load.elapsed();
    let call_log = load.finish().await?;

    let usual = goodput(&call_log, before..from);
    let back = (0u32..)
        .map(|step| GOODPUT_WINDOW / 20 * step)
        .take_while(|after| cured + *after + GOODPUT_WINDOW <= end)
        .find(|after| goodput(&call_log, cured + *after..cured + *after + GOODPUT_WINDOW) >= usual * BACK);
    let mut outcome = ScenarioOutcome::of("", &call_log);
    outcome.recovered(back);
    outcome.within("goodput back after", back, WITHIN, "policy/throttle.rs; policy/budget.rs");
    let late = goodput(&call_log, cured + WITHIN..end) / usual;
    outcome.above(
        "goodput 10 s after it, as part of that before",
        late,
        BACK,
        "policy/throttle.rs; policy/budget.rs",
    );
    Ok(outcome)
}

/// Calls a second that were due then and had a good answer.
fn goodput(call_log: &CallLog, time: std::ops::Range<Duration>) -> f64 {
    let seconds = (time.end - time.start).as_secs_f64();
    let good = call_log.due(time).filter(|call| call.failure.is_none()).calls();
    good as f64 / seconds
}
