//! R3: an instance hangs: it accepts, and says nothing.

use std::{ops::Range, time::Duration};

use anyhow::Result;
use registry_client::instance::InstanceId;
use rustix::process::Signal;

use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix, Seen},
    verdict::Outcome,
};

/// How long it may still be sent to.
const OUT: Duration = Duration::from_secs(2);
/// How long it may take to have traffic again.
const BACK: Duration = Duration::from_secs(5);

/// One freeze: whom, from the signal to the next, and when it answered again.
struct Freeze {
    victim: InstanceId,
    time: Range<Duration>,
    back: Option<Duration>,
}

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let times = setting.sized(1, 4, 4);
    let frozen = Duration::from_secs(setting.sized(4, 8, 8));
    let bed = Bed::start(&setting, Kind::Dev, 3).await?;
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let mut freezes = Vec::new();
    for n in 0..times {
        let replica = &bed.replicas[n % 3];
        let victim = replica.id.clone();
        let from = load.now();
        replica.signal(Signal::STOP)?;
        load.go_on(frozen).await;
        let until = load.now();
        replica.signal(Signal::CONT)?;
        let back = load.until(until, BACK * 2, |call| call.answered_by(&victim)).await.ok();
        freezes.push(Freeze { victim, time: from..until, back: back.map(|call| call.end() - until) });
        load.go_on(Duration::from_secs(1)).await;
    }
    let seen = load.finish().await?;
    Ok(judge(&seen, &freezes))
}

fn judge(seen: &Seen, freezes: &[Freeze]) -> Outcome {
    let mut outcome = Outcome::of(format!("SIGSTOP of one of three, {} times", freezes.len()), seen);
    let mut back = Some(Duration::ZERO);
    let mut out = Duration::ZERO;
    for Freeze { victim, time, back: this } in freezes {
        let last = seen.due(time.clone()).last_sent_to(victim).unwrap_or(time.start);
        out = out.max(last - time.start);
        back = back.zip(*this).map(|(a, b)| a.max(b));
    }
    outcome.detected(Some(out));
    outcome.recovered(back);
    outcome.at_most(
        "failed idempotent calls",
        outcome.failed_idempotent,
        0,
        "channel/connection.rs: keep-alive; channel/call.rs: retries",
    );
    outcome.within("out after", Some(out), OUT, "channel/connection.rs: keep-alive");
    outcome.within("back after SIGCONT", back, BACK, "backoff.rs: the wait before connecting again");
    outcome
}
