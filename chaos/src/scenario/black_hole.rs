//! R4: packets to or from an instance are lost, without a notification.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use registry_client::instance::InstanceId;

use crate::{
    load::{CallLog, DEADLINE, Load, Mix},
    setting::ScenarioSetting,
    testbed::{PacketLoss, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on a call's time after its deadline.
const MAX_OVERRUN: Duration = Duration::from_millis(50);
/// The limit on the time from the end of the loss to traffic.
const MAX_RECOVERY: Duration = Duration::from_secs(2);

/// One loss: its victim, its time, and the time until the victim responded
/// again.
struct BlackHole {
    victim: InstanceId,
    time: Range<Duration>,
    recovery: Option<Duration>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let seconds = setting.sized(4, 8, 8);
    let losses = setting.sized(
        &[PacketLoss::Both][..],
        &[PacketLoss::Both, PacketLoss::In, PacketLoss::Out, PacketLoss::Opening],
        &[PacketLoss::Both, PacketLoss::In, PacketLoss::Out, PacketLoss::Opening],
    );
    let mut testbed = Testbed::on_separate_hosts(&setting, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let mut black_holes = Vec::new();
    for (round, loss) in losses.iter().enumerate() {
        black_holes.push(cut_off(&mut testbed, &load, round % 3, *loss, Duration::from_secs(seconds)).await?);
        load.run_for(Duration::from_secs(1)).await;
    }
    let call_log = load.finish().await?;
    let fault = format!("black hole {losses:?} for {seconds} s each, in a namespace");
    Ok(evaluate(ScenarioOutcome::of(fault, &call_log), &call_log, &black_holes))
}

/// Cuts one replica off for `time`. A loss of opening packets affects only new
/// connections, so that replica is restarted meanwhile.
async fn cut_off(
    testbed: &mut Testbed,
    load: &Load,
    n: usize,
    loss: PacketLoss,
    time: Duration,
) -> Result<BlackHole> {
    let hosts = testbed.hosts.as_ref().context("a bed without hosts")?;
    let host = u8::try_from(n)?;
    let replica = &mut testbed.replicas[n];
    let victim = replica.id.clone();
    let from = load.elapsed();
    hosts.start_loss(host, replica.listen.port(), loss)?;
    if loss == PacketLoss::Opening {
        replica.kill().await?;
        replica.restart()?;
    }
    load.run_for(time).await;
    let until = load.elapsed();
    hosts.stop_loss(host)?;
    let recovery = load.wait_for_call(until, MAX_RECOVERY * 5, |call| call.succeeded_on(&victim)).await.ok();
    Ok(BlackHole { victim, time: from..until, recovery: recovery.map(|call| call.end() - until) })
}

fn evaluate(mut outcome: ScenarioOutcome, call_log: &CallLog, black_holes: &[BlackHole]) -> ScenarioOutcome {
    let mut recovery = Some(Duration::ZERO);
    for BlackHole { victim, time, recovery: time_to_recover } in black_holes {
        let last = call_log.due(time.clone()).last_sent_to(victim).unwrap_or(time.start);
        outcome.detected(Some(last - time.start));
        recovery = recovery.zip(*time_to_recover).map(|(a, b)| a.max(b));
    }
    outcome.recovered(recovery);
    let longest = call_log.percentile(1.0);
    outcome.within("longest call", Some(longest), DEADLINE + MAX_OVERRUN, "channel/call.rs: the deadline");
    outcome.at_most(
        "failed idempotent calls",
        outcome.failed_idempotent,
        0,
        "channel/connection.rs: keep-alive; channel/call.rs: retries",
    );
    outcome.within(
        "back after the end of the loss",
        recovery,
        MAX_RECOVERY,
        "backoff.rs: the wait before connecting again",
    );
    outcome
}
