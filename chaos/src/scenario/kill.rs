//! R1: an instance dies without a word, again and again.

use std::{ops::Range, time::Duration};

use anyhow::Result;
use registry_client::instance::InstanceId;

use crate::{
    cli::Size,
    load::{CallLog, CallRecord, Load, Mix},
    testbed::{RegistryKind, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// How long a killed one may take to have traffic again, started at once.
const BACK: Duration = Duration::from_secs(20);
/// How long after a kill a call may still count as in flight there: what was
/// sent before the news of the broken connection was read, for which a busy
/// machine takes its time.
const NEWS: Duration = Duration::from_millis(100);
/// The time after a kill whose latencies are compared.
const SECOND: Duration = Duration::from_secs(1);

/// One kill: whom, and from before it until after.
struct Kill {
    victim: InstanceId,
    time: Range<Duration>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let times = setting.sized(2, 20, 20);
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let mut kills = Vec::new();
    let mut back = Vec::new();
    for n in 0..times {
        let replica = &mut testbed.replicas[n % 3];
        let victim = replica.id.clone();
        let before = load.elapsed();
        replica.kill().await?;
        let after = load.elapsed();
        kills.push(Kill { victim: victim.clone(), time: before..after + NEWS });
        load.run_for(SECOND).await;
        replica.restart()?;
        let begun = load.elapsed();
        let answered = load.wait_for_call(begun, BACK, |call| call.succeeded_on(&victim)).await?;
        back.push(answered.end() - begun);
        // The next one dies among three, not among two.
        load.run_for(SECOND / 2).await;
    }
    let call_log = load.finish().await?;
    let mut outcome = evaluate(&call_log, &kills, &back);
    // Two seconds have no percentile worth the name.
    if setting.size > Size::Quick {
        slowed(&mut outcome, &call_log, &kills);
    }
    Ok(outcome)
}

fn evaluate(call_log: &CallLog, kills: &[Kill], back: &[Duration]) -> ScenarioOutcome {
    let mut outcome = ScenarioOutcome::of(format!("kill -9 one of three, {} times", kills.len()), call_log);
    for kill in kills {
        // Not sent to any more, but for a call that was already on its way.
        let until = kill.time.end + SECOND;
        let last = call_log.due(kill.time.start..until).last_sent_to(&kill.victim);
        outcome.detected(Some(last.unwrap_or(kill.time.start).saturating_sub(kill.time.start)));
    }
    for time in back {
        outcome.recovered(Some(*time));
    }
    let in_flight = |call: &CallRecord| kills.iter().any(|kill| kill.holds(call));
    let unexplained =
        call_log.all().iter().filter(|c| c.failure.is_some() && !c.idempotent && !in_flight(c)).count();
    outcome.at_most("failed idempotent calls", outcome.failed_idempotent, 0, "channel/call.rs: retries");
    outcome.at_most(
        "other calls that failed without being in flight on the victim",
        unexplained,
        0,
        "channel/pool.rs: does the ready set still hold the dead one?",
    );
    outcome
}

/// How much longer the slow calls take right after a kill.
fn slowed(outcome: &mut ScenarioOutcome, call_log: &CallLog, kills: &[Kill]) {
    let after_kill =
        |call: &CallRecord| kills.iter().any(|k| (k.time.start..k.time.start + SECOND).contains(&call.due));
    let steady = call_log.filter(|call| call.due > SECOND && !after_kill(call)).percentile(0.99);
    let fault = call_log.filter(after_kill).percentile(0.99);
    outcome.below(
        "p99 in the seconds of the faults, times that of the others",
        fault.as_secs_f64() / steady.as_secs_f64().max(1e-4),
        3.0,
        "policy/retry.rs: how long does a retry wait?",
    );
}

impl Kill {
    /// Whether the call was in flight on the victim.
    fn holds(&self, call: &CallRecord) -> bool {
        call.was_sent_to(&self.victim) && call.due <= self.time.end && call.end() >= self.time.start
    }
}
