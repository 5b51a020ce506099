//! R9: everything at the bottom fails; retries must not multiply.

use std::time::Duration;

use anyhow::Result;

use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix, Seen},
    verdict::Outcome,
};

/// The time over which a budget counts.
const WINDOW: Duration = Duration::from_secs(10);
/// The most sends of one call.
const PER_CALL: usize = 3;

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let time = Duration::from_secs(setting.sized(5, 25, 30));
    let (one, _, _) = layers(&setting, 1, time).await?;
    let (_, three, below) = layers(&setting, 3, time).await?;
    let seconds = time.as_secs();
    let mut outcome = Outcome::of(
        format!("all of the bottom layer UNAVAILABLE, below one and three layers, {seconds} s each"),
        &three,
    );
    outcome.below("attempts per call at one layer, in the worst 10 s", worst(&one), 1.2, "policy/budget.rs");
    outcome.below("calls at the bottom of three per call at the top", below, 1.3, "policy: chain-stop");
    let most = one.most_attempts().max(three.most_attempts());
    outcome.at_most("attempts of one call", most, PER_CALL, "policy/retry.rs");
    Ok(outcome)
}

/// The most attempts per call in any ten seconds that begin on a second.
fn worst(seen: &Seen) -> f64 {
    let end = seen.all().iter().map(|call| call.due).max().unwrap_or_default();
    let last = end.saturating_sub(WINDOW).as_secs();
    let windows = (0..=last).map(|from| Duration::from_secs(from)..Duration::from_secs(from) + WINDOW);
    windows.map(|window| seen.due(window).attempts_per_call()).fold(0.0, f64::max)
}

/// What the load saw of an outage below `layers` layers, in all and while it
/// lasted, and how many calls reached the bottom for each of the latter.
async fn layers(setting: &Setting, layers: usize, time: Duration) -> Result<(Seen, Seen, f64)> {
    const NAMES: [&str; 3] = ["target", "middle", "bottom"];
    let mut bed = Bed::start(setting, Kind::Dev, 0).await?;
    for (layer, service) in NAMES.into_iter().enumerate().take(layers) {
        for _ in 0..2 {
            match NAMES.get(layer + 1).filter(|_| layer + 1 < layers) {
                Some(next) => bed.add_to(service, &["--relay", next])?,
                None => bed.add_to(service, &[])?,
            };
        }
    }
    bed.all_passing().await?;
    let load = Load::start(bed.channel()?, Mix::Reads)?;
    load.go_on(setting.warm_up()).await;
    let bottom = 2 * (layers - 1);
    let from = load.now();
    for replica in &mut bed.replicas[bottom..] {
        replica.behave("fail UNAVAILABLE").await?;
        replica.report().await?;
    }
    load.go_on(time).await;
    let until = load.now();
    let mut reached = 0;
    for replica in &mut bed.replicas[bottom..] {
        reached += replica.report().await?.calls;
    }
    let all = load.finish().await?;
    let seen = all.due(from..until);
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    let per_call = reached as f64 / seen.calls().max(1) as f64;
    Ok((all, seen, per_call))
}
