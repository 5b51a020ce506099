//! R2: every instance is restarted, one after the other.

use std::time::Duration;

use anyhow::Result;

use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix},
    verdict::Outcome,
};

/// How long a restarted one may take to have traffic again.
const BACK: Duration = Duration::from_secs(20);
/// How long one may take to stop.
const EXIT: Duration = Duration::from_secs(10);

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let rounds = setting.sized(1, 5, 5);
    let mut bed = Bed::start(&setting, Kind::Dev, 3).await?;
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let mut slowest = Duration::ZERO;
    let mut back = Duration::ZERO;
    for _ in 0..rounds {
        for replica in &mut bed.replicas {
            slowest = slowest.max(replica.stop().await?);
            replica.begin()?;
            let begun = load.now();
            let id = replica.id.clone();
            let answered = load.until(begun, BACK, |call| call.answered_by(&id)).await?;
            back = back.max(answered.end() - begun);
        }
    }
    let seen = load.finish().await?;
    let mut outcome = Outcome::of(format!("{rounds} rolling restarts of three by SIGTERM"), &seen);
    outcome.recovered(Some(back));
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls of any kind", failed, 0, "server.rs: the order of the drain");
    outcome.within("slowest exit", Some(slowest), EXIT, "server.rs: what is waited for at the end?");
    Ok(outcome)
}
