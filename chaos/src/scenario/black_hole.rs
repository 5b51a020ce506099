//! R4: packets to or from an instance vanish, and nobody is told.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;

use crate::{
    load::{CallLog, DEADLINE, Load, Mix},
    testbed::{PacketLoss, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
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

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let seconds = setting.sized(4, 8, 8);
    let cuts = setting.sized(
        &[PacketLoss::Both][..],
        &[PacketLoss::Both, PacketLoss::In, PacketLoss::Out, PacketLoss::Opening],
        &[PacketLoss::Both, PacketLoss::In, PacketLoss::Out, PacketLoss::Opening],
    );
    let mut testbed = Testbed::on_separate_hosts(&setting, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let mut holes = Vec::new();
    for (turn, cut) in cuts.iter().enumerate() {
        holes.push(hole(&mut testbed, &load, turn % 3, *cut, Duration::from_secs(seconds)).await?);
        load.run_for(Duration::from_secs(1)).await;
    }
    let call_log = load.finish().await?;
    let fault = format!("black hole {cuts:?} for {seconds} s each, in a namespace");
    Ok(evaluate(ScenarioOutcome::of(fault, &call_log), &call_log, &holes))
}

/// Cuts one replica off and heals it. A cut of what opens connections is only
/// felt by who must open one: that replica is restarted meanwhile.
async fn hole(testbed: &mut Testbed, load: &Load, n: usize, cut: PacketLoss, time: Duration) -> Result<Hole> {
    let hosts = testbed.hosts.as_ref().context("a bed without hosts")?;
    let host = u8::try_from(n)?;
    let replica = &mut testbed.replicas[n];
    let victim = replica.id.clone();
    let from = load.elapsed();
    hosts.start_loss(host, replica.listen.port(), cut)?;
    if cut == PacketLoss::Opening {
        replica.kill().await?;
        replica.restart()?;
    }
    load.run_for(time).await;
    let until = load.elapsed();
    hosts.stop_loss(host)?;
    let back = load.wait_for_call(until, BACK * 5, |call| call.succeeded_on(&victim)).await.ok();
    Ok(Hole { victim, time: from..until, back: back.map(|call| call.end() - until) })
}

fn evaluate(mut outcome: ScenarioOutcome, call_log: &CallLog, holes: &[Hole]) -> ScenarioOutcome {
    let mut back = Some(Duration::ZERO);
    for Hole { victim, time, back: this } in holes {
        let last = call_log.due(time.clone()).last_sent_to(victim).unwrap_or(time.start);
        outcome.detected(Some(last - time.start));
        back = back.zip(*this).map(|(a, b)| a.max(b));
    }
    outcome.recovered(back);
    let longest = call_log.percentile(1.0);
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
