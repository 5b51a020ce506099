//! R4: packets to or from an instance vanish, and nobody is told.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;

use crate::{
    bed::{Bed, Cut, Setting},
    load::{DEADLINE, Load, Mix, Seen},
    verdict::Outcome,
};

/// By how much a call may outlive its deadline.
const LATE: Duration = Duration::from_millis(50);
/// How long after the healing it may take to have traffic again.
const BACK: Duration = Duration::from_secs(2);

/// One cut: of whom, from its beginning to its healing, and when it answered
/// again.
struct Hole {
    victim: InstanceId,
    time: Range<Duration>,
    back: Option<Duration>,
}

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let seconds = setting.sized(4, 8, 8);
    let cuts = setting.sized(
        &[Cut::Both][..],
        &[Cut::Both, Cut::In, Cut::Out, Cut::Opening],
        &[Cut::Both, Cut::In, Cut::Out, Cut::Opening],
    );
    let mut bed = Bed::spread(&setting, 3).await?;
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let mut holes = Vec::new();
    for (turn, cut) in cuts.iter().enumerate() {
        holes.push(hole(&mut bed, &load, turn % 3, *cut, Duration::from_secs(seconds)).await?);
        load.go_on(Duration::from_secs(1)).await;
    }
    let seen = load.finish().await?;
    let fault = format!("black hole {cuts:?} for {seconds} s each, in a namespace");
    Ok(judge(Outcome::of(fault, &seen), &seen, &holes))
}

/// Cuts one replica off and heals it. A cut of what opens connections is only
/// felt by who must open one: that replica is restarted meanwhile.
async fn hole(bed: &mut Bed, load: &Load, n: usize, cut: Cut, time: Duration) -> Result<Hole> {
    let hosts = bed.hosts.as_ref().context("a bed without hosts")?;
    let host = u8::try_from(n)?;
    let replica = &mut bed.replicas[n];
    let victim = replica.id.clone();
    let from = load.now();
    hosts.cut(host, replica.listen.port(), cut)?;
    if cut == Cut::Opening {
        replica.kill().await?;
        replica.begin()?;
    }
    load.go_on(time).await;
    let until = load.now();
    hosts.heal(host)?;
    let back = load.until(until, BACK * 5, |call| call.answered_by(&victim)).await.ok();
    Ok(Hole { victim, time: from..until, back: back.map(|call| call.end() - until) })
}

fn judge(mut outcome: Outcome, seen: &Seen, holes: &[Hole]) -> Outcome {
    let mut back = Some(Duration::ZERO);
    for Hole { victim, time, back: this } in holes {
        let last = seen.due(time.clone()).last_sent_to(victim).unwrap_or(time.start);
        outcome.detected(Some(last - time.start));
        back = back.zip(*this).map(|(a, b)| a.max(b));
    }
    outcome.recovered(back);
    let longest = seen.percentile(1.0);
    outcome.within("longest call", Some(longest), DEADLINE + LATE, "channel/call.rs: the deadline");
    outcome.at_most(
        "failed idempotent calls",
        outcome.failed_idempotent,
        0,
        "channel/connection.rs: keep-alive; channel/call.rs: retries",
    );
    outcome.within("back after the healing", back, BACK, "backoff.rs: the wait before connecting again");
    outcome
}
