//! R9: all instances of the bottom service fail; retries must not multiply.

use std::{ops::Range, time::Duration};

use anyhow::Result;

use crate::{
    load::{CallLog, Load, Mix, ratio},
    setting::ScenarioSetting,
    terminal::print_line,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The window of a retry budget.
const WINDOW: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// The limit on attempts of one call.
const MAX_ATTEMPTS_PER_CALL: usize = 3;

/// The number of calling processes, and their calls a second in total.
type Callers = (usize, u32);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let time = Duration::from_secs(setting.sized(5, 25, 30));
    let (one, _, _) = layers(&setting, 1, time).await?;
    let (_, three, below) = layers(&setting, 3, time).await?;
    let seconds = time.as_secs();
    let mut outcome = ScenarioOutcome::of(
        format!("all of the bottom layer UNAVAILABLE, below one and three layers, {seconds} s each"),
        &three,
    );
    outcome.below(
        "attempts per call at one layer, in the worst 10 s",
        worst_window(&one),
        1.2,
        "policy/budget.rs",
    );
    outcome.below("calls at the bottom of three per call at the top", below, 1.3, "policy: chain-stop");
    let max = one.max_attempts().max(three.max_attempts());
    outcome.at_most("attempts of one call", max, MAX_ATTEMPTS_PER_CALL, "policy/retry.rs");
    let few: &[Callers] = &[(5, 50)];
    let all: &[Callers] = &[(2, 50), (2, 200), (3, 50), (3, 200), (5, 50), (5, 100), (5, 200)];
    let (mut overall, mut second) = (0.0_f64, 0.0_f64);
    for callers in setting.sized(few, all, all) {
        let reached_calls = several_processes(&setting, *callers).await?;
        let (processes, rate) = callers;
        print_line(format_args!(
            "    {processes} processes, {rate} calls a second: {:.2} attempts per call, {:.2} in the worst second",
            reached_calls.0, reached_calls.1
        ));
        (overall, second) = (overall.max(reached_calls.0), second.max(reached_calls.1));
    }
    outcome.below("attempts per call of several processes", overall, 1.2, "policy/budget.rs: the floor");
    outcome.below("the same in the worst second", second, 1.75, "policy/budget.rs: the burst");
    Ok(outcome)
}

/// The calls that reach the bottom per call of so many processes, while it
/// fails: in total, and in the worst second.
async fn several_processes(setting: &ScenarioSetting, (processes, rate): Callers) -> Result<(f64, f64)> {
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 0).await?;
    for _ in 0..processes {
        testbed.add_service("target", &["--relay", "bottom"])?;
    }
    for _ in 0..2 {
        testbed.add_service("bottom", &[])?;
    }
    testbed.all_passing().await?;
    let load = Load::at_rate(testbed.channel()?, Mix::Reads, rate)?;
    load.run_for(WINDOW).await;
    for replica in &mut testbed.replicas[processes..] {
        replica.set_behaviour("fail UNAVAILABLE").await?;
        replica.report().await?;
    }
    let (mut seconds, mut from) = (Vec::new(), load.elapsed());
    for _ in 0..setting.sized(16, 20, 20) {
        load.run_for(SECOND).await;
        let until = load.elapsed();
        let mut reached_calls = 0;
        for replica in &mut testbed.replicas[processes..] {
            reached_calls += replica.report().await?.calls;
        }
        seconds.push((from..until, usize::try_from(reached_calls)?));
        from = until;
    }
    let call_log = load.finish().await?;
    let of = |time: &Range<Duration>| call_log.due(time.clone()).calls();
    let worst_window =
        seconds.iter().map(|(time, reached_calls)| ratio(*reached_calls, of(time))).fold(0.0, f64::max);
    let reached_calls = seconds.iter().map(|(_, reached_calls)| reached_calls).sum();
    Ok((ratio(reached_calls, seconds.iter().map(|(time, _)| of(time)).sum()), worst_window))
}

/// The largest number of attempts per call in any ten seconds that begin on a
/// second.
fn worst_window(call_log: &CallLog) -> f64 {
    let end = call_log.all().iter().map(|call| call.due).max().unwrap_or_default();
    let last = end.saturating_sub(WINDOW).as_secs();
    let windows = (0..=last).map(|from| Duration::from_secs(from)..Duration::from_secs(from) + WINDOW);
    windows.map(|window| call_log.due(window).attempts_per_call()).fold(0.0, f64::max)
}

/// The load's calls during a run with an outage below `layers` layers, its
/// calls during the outage, and the calls that reached the bottom for each of
/// the latter.
async fn layers(setting: &ScenarioSetting, layers: usize, time: Duration) -> Result<(CallLog, CallLog, f64)> {
    const NAMES: [&str; 3] = ["target", "middle", "bottom"];
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 0).await?;
    for (layer, service) in NAMES.into_iter().enumerate().take(layers) {
        for _ in 0..2 {
            match NAMES.get(layer + 1).filter(|_| layer + 1 < layers) {
                Some(next) => testbed.add_service(service, &["--relay", next])?,
                None => testbed.add_service(service, &[])?,
            };
        }
    }
    testbed.all_passing().await?;
    let load = Load::start(testbed.channel()?, Mix::Reads)?;
    load.run_for(setting.warm_up()).await;
    let bottom = 2 * (layers - 1);
    let from = load.elapsed();
    for replica in &mut testbed.replicas[bottom..] {
        replica.set_behaviour("fail UNAVAILABLE").await?;
        replica.report().await?;
    }
    load.run_for(time).await;
    let until = load.elapsed();
    let mut reached_calls = 0;
    for replica in &mut testbed.replicas[bottom..] {
        reached_calls += replica.report().await?.calls;
    }
    let all = load.finish().await?;
    let call_log = all.due(from..until);
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    let per_call = reached_calls as f64 / call_log.calls().max(1) as f64;
    Ok((all, call_log, per_call))
}
