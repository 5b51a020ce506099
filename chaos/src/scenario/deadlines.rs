//! R12: a deadline expires three services deep.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    load::{DEADLINE, Load, Mix},
    setting::ScenarioSetting,
    target::Report,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on the time that a handler runs past its deadline.
const MAX_LATE_MS: u64 = 100;
/// The smallest time that a hop with 20 ms of work takes off the deadline.
const MIN_SPENT_MS: u64 = 10;

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
    // Calls that started before are not counted.
    load.run_for(DEADLINE).await;
    for replica in &mut testbed.replicas {
        replica.report().await?;
    }
    load.run_for(time).await;
    let call_log = load.finish().await?;
    wait_for_handlers().await;
    let mut reports = Vec::new();
    for replica in &mut testbed.replicas {
        reports.push(replica.report().await?);
    }
    let fault = format!("the third of three services never answers, for {} s", time.as_secs());
    evaluate(ScenarioOutcome::of(fault, &call_log), &reports)
}

/// Waits for the promised end of the last handlers.
async fn wait_for_handlers() {
    tokio::time::sleep(Duration::from_millis(2 * MAX_LATE_MS)).await;
}

fn evaluate(mut outcome: ScenarioOutcome, reports: &[Report]) -> Result<ScenarioOutcome> {
    let late = || reports.iter().flat_map(|report| &report.late_ms).copied();
    let running: u64 = reports.iter().map(|report| report.running).sum();
    let ended = late().filter(|late| *late <= MAX_LATE_MS).count();
    let all = late().count() + usize::try_from(running).unwrap_or(usize::MAX);
    outcome.detected(late().max().map(Duration::from_millis));
    outcome.figure(
        "handlers cancelled within 100 ms of their expiry",
        format!("{ended} of {all}"),
        "≥ 99 %".to_owned(),
        all > 0 && ended * 100 >= all * 99,
        "server/deadline.rs",
    );
    let longest_deadlines =
        reports.iter().map(|report| report.granted_ms.context("a hop without a deadline"));
    let longest_deadlines: Vec<u64> =
        longest_deadlines.map(|g| g.map(|(longest, _)| longest)).collect::<Result<_>>()?;
    let shrinks = longest_deadlines.windows(2).all(|hops| hops[1] + MIN_SPENT_MS <= hops[0]);
    outcome.figure(
        "the longest deadline of a call, hop by hop",
        format!("{longest_deadlines:?} ms"),
        format!("each at least {MIN_SPENT_MS} ms less"),
        shrinks,
        "policy/incoming.rs; server/deadline.rs",
    );
    Ok(outcome)
}
