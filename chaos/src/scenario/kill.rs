//! R1: an instance is killed, repeatedly.

use std::{ops::Range, time::Duration};

use anyhow::Result;
use registry_client::instance::InstanceId;

use crate::{
    load::{CallLog, CallRecord, Load, Mix},
    setting::{ScenarioSetting, Size},
    testbed::{RegistryKind, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on the time from a restart to traffic.
const MAX_RECOVERY: Duration = Duration::from_secs(20);
/// The time after a kill in which a call still counts as in flight there: it
/// was sent before the channel noticed the broken connection.
const MAX_NOTIFICATION_DELAY: Duration = Duration::from_millis(100);
/// The time after a kill for which latencies are compared.
const SECOND: Duration = Duration::from_secs(1);

/// One kill: its victim, and the time around it.
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
    let mut recoveries = Vec::new();
    for n in 0..times {
        let replica = &mut testbed.replicas[n % 3];
        let victim = replica.id.clone();
        let before = load.elapsed();
        replica.kill().await?;
        let after = load.elapsed();
        kills.push(Kill { victim: victim.clone(), time: before..after + MAX_NOTIFICATION_DELAY });
        load.run_for(SECOND).await;
        replica.restart()?;
        let restarted = load.elapsed();
        let first_response =
            load.wait_for_call(restarted, MAX_RECOVERY, |call| call.succeeded_on(&victim)).await?;
        recoveries.push(first_response.end() - restarted);
        // The next kill must hit one of three instances, not of two.
        load.run_for(SECOND / 2).await;
    }
    let call_log = load.finish().await?;
    let mut outcome = evaluate(&call_log, &kills, &recoveries);
    // Two seconds are too short for a percentile.
    if setting.size > Size::Quick {
        add_slowdown(&mut outcome, &call_log, &kills);
    }
    Ok(outcome)
}

fn evaluate(call_log: &CallLog, kills: &[Kill], recoveries: &[Duration]) -> ScenarioOutcome {
    let mut outcome = ScenarioOutcome::of(format!("kill -9 one of three, {} times", kills.len()), call_log);
    for kill in kills {
        // The last call that was sent to the victim.
        let until = kill.time.end + SECOND;
        let last = call_log.due(kill.time.start..until).last_sent_to(&kill.victim);
        outcome.detected(Some(last.unwrap_or(kill.time.start).saturating_sub(kill.time.start)));
    }
    for time in recoveries {
        outcome.recovered(Some(*time));
    }
    let in_flight = |call: &CallRecord| kills.iter().any(|kill| kill.was_in_flight(call));
    let unexplained =
        call_log.all().iter().filter(|c| c.failure.is_some() && !c.idempotent && !in_flight(c)).count();
    outcome.at_most("failed idempotent calls", outcome.failed_idempotent, 0, "channel/call.rs: retries");
    outcome.at_most(
        "other calls that failed without being in flight on the victim",
        unexplained,
        0,
        "channel/pool.rs: removing a dead instance from the ready set",
    );
    outcome
}

/// Adds the p99 after a kill, relative to the p99 otherwise.
fn add_slowdown(outcome: &mut ScenarioOutcome, call_log: &CallLog, kills: &[Kill]) {
    let after_kill =
        |call: &CallRecord| kills.iter().any(|k| (k.time.start..k.time.start + SECOND).contains(&call.due));
    let steady = call_log.filter(|call| call.due > SECOND && !after_kill(call)).percentile(0.99);
    let fault = call_log.filter(after_kill).percentile(0.99);
    outcome.below(
        "p99 in the seconds of the faults, times that of the others",
        fault.as_secs_f64() / steady.as_secs_f64().max(1e-4),
        3.0,
        "policy/retry.rs: the backoff of a retry",
    );
}

impl Kill {
    /// Returns whether the call was in flight on the victim.
    fn was_in_flight(&self, call: &CallRecord) -> bool {
        call.was_sent_to(&self.victim) && call.due <= self.time.end && call.end() >= self.time.start
    }
}
