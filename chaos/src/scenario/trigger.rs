//! R10: an overload must end once its trigger has ended.

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{CallLog, Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The concurrency of a replica, and the time that a call takes.
const SLOTS: (&str, &str) = ("1", "20ms");
/// The capacity of three replicas in calls a second.
const CAPACITY: u32 = 150;
/// The normal load: 80 % of the capacity.
const RATE: u32 = CAPACITY * 4 / 5;
/// The load during the trigger as a multiple of the normal load.
const LOAD_FACTOR: u32 = 3;
/// The share of the previous goodput that must be reached again.
const MIN_GOODPUT: f64 = 0.95;
/// The limit on the time from the end of the trigger to that goodput.
const MAX_RECOVERY: Duration = Duration::from_secs(10);
/// The window over which goodput is measured.
const GOODPUT_WINDOW: Duration = Duration::from_secs(2);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut outcome = ScenarioOutcome::default();
    for (name, is_load) in [("three times the load", true), ("ten times the latency", false)] {
        outcome.add(name, one(&setting, is_load).await?);
    }
    outcome.fault = format!(
        "three times the load, then ten times the latency, for {} s each",
        trigger_time(&setting).as_secs()
    );
    Ok(outcome)
}

fn trigger_time(setting: &ScenarioSetting) -> Duration {
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
        let more = Load::at_rate(testbed.channel()?, Mix::Reads, RATE * (LOAD_FACTOR - 1))?;
        more.run_for(trigger_time(setting)).await;
        drop(more);
    } else {
        for replica in &mut testbed.replicas {
            replica.set_behaviour("slow 180ms").await?;
        }
        load.run_for(trigger_time(setting)).await;
        for replica in &mut testbed.replicas {
            replica.set_behaviour("well").await?;
        }
    }
    let trigger_end = load.elapsed();
    load.run_for(MAX_RECOVERY + GOODPUT_WINDOW * 2).await;
    let end = load.elapsed();
    let call_log = load.finish().await?;

    let goodput_before = goodput(&call_log, before..from);
    let recovery = (0u32..)
        .map(|step| GOODPUT_WINDOW / 20 * step)
        .take_while(|after| trigger_end + *after + GOODPUT_WINDOW <= end)
        .find(|after| {
            goodput(&call_log, trigger_end + *after..trigger_end + *after + GOODPUT_WINDOW)
                >= goodput_before * MIN_GOODPUT
        });
    let mut outcome = ScenarioOutcome::of("", &call_log);
    outcome.recovered(recovery);
    outcome.within("goodput back after", recovery, MAX_RECOVERY, "policy/throttle.rs; policy/budget.rs");
    let goodput_after = goodput(&call_log, trigger_end + MAX_RECOVERY..end) / goodput_before;
    outcome.above(
        "goodput 10 s after it, as part of that before",
        goodput_after,
        MIN_GOODPUT,
        "policy/throttle.rs; policy/budget.rs",
    );
    Ok(outcome)
}

/// The successful calls a second that were due within `time`.
fn goodput(call_log: &CallLog, time: std::ops::Range<Duration>) -> f64 {
    let seconds = (time.end - time.start).as_secs_f64();
    let good = call_log.due(time).filter(|call| call.failure.is_none()).calls();
    good as f64 / seconds
}
