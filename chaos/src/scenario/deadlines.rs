//! R12: time runs out three services deep.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    load::{DEADLINE, Load, Mix},
    target::Report,
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// How long after its time is up a handler may still be there.
const LATE_MS: u64 = 100;
/// By how much a hop that works 20 ms shortens the time, at the very least.
const SPENT_MS: u64 = 10;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let time = Duration::from_secs(setting.sized(4, 50, 60));
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 0).await?;
    testbed.add_service("target", &["--relay", "middle"])?;
    testbed.add_service("middle", &["--relay", "bottom"])?;
    testbed.add_service("bottom", &[])?;
    testbed.all_passing().await?;
    let load = Load::start(testbed.channel()?, Mix::Reads)?;
    load.run_for(setting.warm_up()).await;
    testbed.replicas[2].set_behaviour("hang").await?;
    // Calls that began before are no part of what is counted.
    load.run_for(DEADLINE).await;
    for replica in &mut testbed.replicas {
        replica.report().await?;
    }
    load.run_for(time).await;
    let call_log = load.finish().await?;
    load_is_gone().await;
    let mut reports = Vec::new();
    for replica in &mut testbed.replicas {
        reports.push(replica.report().await?);
    }
    let fault = format!("the third of three services never answers, for {} s", time.as_secs());
    evaluate(ScenarioOutcome::of(fault, &call_log), &reports)
}

/// The last handlers get the time that they are promised to end in.
async fn load_is_gone() {
    tokio::time::sleep(Duration::from_millis(2 * LATE_MS)).await;
}

fn evaluate(mut outcome: ScenarioOutcome, reports: &[Report]) -> Result<ScenarioOutcome> {
    let late = || reports.iter().flat_map(|report| &report.late_ms).copied();
    let running: u64 = reports.iter().map(|report| report.running).sum();
    let ended = late().filter(|late| *late <= LATE_MS).count();
    let all = late().count() + usize::try_from(running).unwrap_or(usize::MAX);
    outcome.detected(late().max().map(Duration::from_millis));
    outcome.figure(
        "handlers cancelled within 100 ms of their expiry",
        format!("{ended} of {all}"),
        "≥ 99 %".to_owned(),
        all > 0 && ended * 100 >= all * 99,
        "server/deadline.rs",
    );
    let granted = reports.iter().map(|report| report.granted_ms.context("a hop without a deadline"));
    let granted: Vec<u64> = granted.map(|g| g.map(|(most, _)| most)).collect::<Result<_>>()?;
    let shrinks = granted.windows(2).all(|hops| hops[1] + SPENT_MS <= hops[0]);
    outcome.figure(
        "the most time that a call comes with, hop by hop",
        format!("{granted:?} ms"),
        format!("each at least {SPENT_MS} ms less"),
        shrinks,
        "policy/incoming.rs; server/deadline.rs",
    );
    Ok(outcome)
}
