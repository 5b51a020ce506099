//! R12: time runs out three services deep.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    bed::{Bed, Kind, Setting},
    load::{DEADLINE, Load, Mix},
    target::Report,
    verdict::Outcome,
};

/// How long after its time is up a handler may still be there.
const LATE_MS: u64 = 100;
/// By how much a hop that works 20 ms shortens the time, at the very least.
const SPENT_MS: u64 = 10;

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let time = Duration::from_secs(setting.sized(4, 50, 60));
    let mut bed = Bed::start(&setting, Kind::Dev, 0).await?;
    bed.add_to("target", &["--relay", "middle"])?;
    bed.add_to("middle", &["--relay", "bottom"])?;
    bed.add_to("bottom", &[])?;
    bed.all_passing().await?;
    let load = Load::start(bed.channel()?, Mix::Reads)?;
    load.go_on(setting.warm_up()).await;
    bed.replicas[2].behave("hang").await?;
    // Calls that began before are no part of what is counted.
    load.go_on(DEADLINE).await;
    for replica in &mut bed.replicas {
        replica.report().await?;
    }
    load.go_on(time).await;
    let seen = load.finish().await?;
    load_is_gone().await;
    let mut reports = Vec::new();
    for replica in &mut bed.replicas {
        reports.push(replica.report().await?);
    }
    let fault = format!("the third of three services never answers, for {} s", time.as_secs());
    judge(Outcome::of(fault, &seen), &reports)
}

/// The last handlers get the time that they are promised to end in.
async fn load_is_gone() {
    tokio::time::sleep(Duration::from_millis(2 * LATE_MS)).await;
}

fn judge(mut outcome: Outcome, reports: &[Report]) -> Result<Outcome> {
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
