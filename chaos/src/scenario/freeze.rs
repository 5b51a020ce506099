//! R3: an instance hangs: it accepts, and says nothing.

use std::{ops::Range, time::Duration};

use anyhow::Result;
use registry_client::instance::InstanceId;
use rustix::process::Signal;

use crate::{
    load::{CallLog, Load, Mix},
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
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
        let back = load.wait_for_call(until, BACK * 2, |call| call.succeeded_on(&victim)).await.ok();
        freezes.push(Freeze { victim, time: from..until, back: back.map(|call| call.end() - until) });
        load.run_for(Duration::from_secs(1)).await;
    }
    let call_log = load.finish().await?;
    Ok(evaluate(&call_log, &freezes))
}

fn evaluate(call_log: &CallLog, freezes: &[Freeze]) -> ScenarioOutcome {
    let mut outcome =
        ScenarioOutcome::of(format!("SIGSTOP of one of three, {} times", freezes.len()), call_log);
    let mut back = Some(Duration::ZERO);
    let mut out = Duration::ZERO;
    for Freeze { victim, time, back: this } in freezes {
        let last = call_log.due(time.clone()).last_sent_to(victim).unwrap_or(time.start);
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
