//! R3: an instance hangs: it accepts connections and does not respond.

use std::{ops::Range, time::Duration};

use anyhow::Result;
use registry_client::instance::InstanceId;
use rustix::process::Signal;

use crate::{
    load::{CallLog, Load, Mix},
    setting::ScenarioSetting,
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on the time until no call is sent to it.
const MAX_DETECTION: Duration = Duration::from_secs(2);
/// The limit on the time from SIGCONT to traffic.
const MAX_RECOVERY: Duration = Duration::from_secs(5);

/// One freeze: its victim, its time, and the time until the victim responded
/// again.
struct Freeze {
    victim: InstanceId,
    time: Range<Duration>,
    recovery: Option<Duration>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let times = setting.sized(1, 4, 4);
    let frozen = Duration::from_secs(setting.sized(4, 8, 8));
    let testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let mut freezes = Vec::new();
    for n in 0..times {
        let replica = &testbed.replicas[n % 3];
        let victim = replica.id.clone();
        let from = load.elapsed();
        replica.signal(Signal::STOP)?;
        load.run_for(frozen).await;
        let until = load.elapsed();
        replica.signal(Signal::CONT)?;
        let recovery =
            load.wait_for_call(until, MAX_RECOVERY * 2, |call| call.succeeded_on(&victim)).await.ok();
        freezes.push(Freeze { victim, time: from..until, recovery: recovery.map(|call| call.end() - until) });
        load.run_for(Duration::from_secs(1)).await;
    }
    let call_log = load.finish().await?;
    Ok(evaluate(&call_log, &freezes))
}

fn evaluate(call_log: &CallLog, freezes: &[Freeze]) -> ScenarioOutcome {
    let mut outcome =
        ScenarioOutcome::of(format!("SIGSTOP of one of three, {} times", freezes.len()), call_log);
    let mut recovery = Some(Duration::ZERO);
    let mut detection = Duration::ZERO;
    for Freeze { victim, time, recovery: time_to_recover } in freezes {
        let last = call_log.due(time.clone()).last_sent_to(victim).unwrap_or(time.start);
        detection = detection.max(last - time.start);
        recovery = recovery.zip(*time_to_recover).map(|(a, b)| a.max(b));
    }
    outcome.detected(Some(detection));
    outcome.recovered(recovery);
    outcome.at_most(
        "failed idempotent calls",
        outcome.failed_idempotent,
        0,
        "channel/connection.rs: keep-alive; channel/call.rs: retries",
    );
    outcome.within("out after", Some(detection), MAX_DETECTION, "channel/connection.rs: keep-alive");
    outcome.within(
        "back after SIGCONT",
        recovery,
        MAX_RECOVERY,
        "backoff.rs: the wait before connecting again",
    );
    outcome
}
