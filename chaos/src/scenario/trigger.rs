//! R10: what triggers an overload goes away, and so must the overload.

use std::time::Duration;

use anyhow::Result;

use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix, Seen},
    verdict::Outcome,
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

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (name, is_load) in [("three times the load", true), ("ten times the latency", false)] {
        outcome.add(name, one(&setting, is_load).await?);
    }
    outcome.fault = format!(
        "three times the load, then ten times the latency, for {} s each",
        trigger(&setting).as_secs()
    );
    Ok(outcome)
}

fn trigger(setting: &Setting) -> Duration {
    Duration::from_secs(setting.sized(4, 10, 10))
}

async fn one(setting: &Setting, is_load: bool) -> Result<Outcome> {
    let mut bed = Bed::start(setting, Kind::Dev, 0).await?;
    for _ in 0..3 {
        bed.add(&["--slots", SLOTS.0, "--work", SLOTS.1])?;
    }
    bed.all_passing().await?;
    let load = Load::at_rate(bed.channel()?, Mix::Reads, RATE)?;
    load.go_on(setting.warm_up()).await;
    let before = load.now();
    load.go_on(setting.warm_up() * 2).await;
    let from = load.now();
    if is_load {
        let more = Load::at_rate(bed.channel()?, Mix::Reads, RATE * (TIMES - 1))?;
        more.go_on(trigger(setting)).await;
        drop(more);
    } else {
        for replica in &mut bed.replicas {
            replica.behave("slow 180ms").await?;
        }
        load.go_on(trigger(setting)).await;
        for replica in &mut bed.replicas {
            replica.behave("well").await?;
        }
    }
    let cured = load.now();
    load.go_on(WITHIN + GOODPUT_WINDOW * 2).await;
    let end = load.now();
    let seen = load.finish().await?;

    let usual = goodput(&seen, before..from);
    let back = (0u32..)
        .map(|step| GOODPUT_WINDOW / 20 * step)
        .take_while(|after| cured + *after + GOODPUT_WINDOW <= end)
        .find(|after| goodput(&seen, cured + *after..cured + *after + GOODPUT_WINDOW) >= usual * BACK);
    let mut outcome = Outcome::of("", &seen);
    outcome.recovered(back);
    outcome.within("goodput back after", back, WITHIN, "policy/throttle.rs; policy/budget.rs");
    let late = goodput(&seen, cured + WITHIN..end) / usual;
    outcome.above(
        "goodput 10 s after it, as part of that before",
        late,
        BACK,
        "policy/throttle.rs; policy/budget.rs",
    );
    Ok(outcome)
}

/// Calls a second that were due then and had a good answer.
fn goodput(seen: &Seen, time: std::ops::Range<Duration>) -> f64 {
    let seconds = (time.end - time.start).as_secs_f64();
    let good = seen.due(time).only(|call| call.failure.is_none()).calls();
    good as f64 / seconds
}
