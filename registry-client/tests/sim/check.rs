//! What must hold of every run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    load::{CALL, Finished},
    world::{Outcome, Scenario, host},
};

/// How much later than its deadline a call may end.
const LATE: Duration = Duration::from_millis(50);
/// Within what time an instance that can be reached again is used again.
const SETTLING: Duration = Duration::from_secs(2);
/// What one silent instance may cost a call until it is found out and the
/// call goes on elsewhere.
const STALL: Duration = Duration::from_secs(1);
/// The most connections that are made to one instance in `WINDOW`: one a
/// second, and what a change of its address or news of it adds.
const DIALS: usize = 13;
const WINDOW: Duration = Duration::from_secs(10);

/// Every broken promise, in words.
pub(crate) fn broken(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let calls = outcome.calls.iter();
    let mut broken: Vec<_> = calls.filter_map(|call| broken_by(scenario, call)).collect();
    broken.extend(processed_too_often(outcome));
    broken.extend(dialled_too_often(outcome));
    broken.extend(not_recovered(scenario, outcome));
    broken
}

/// Returns whether this call must succeed: it may be sent twice, an instance is
/// there all the time, and no more faults strike than it has time to survive.
pub(crate) fn must_succeed(scenario: &Scenario, call: &Finished) -> bool {
    let end = call.began + scenario.load.deadline;
    let survivable = scenario.load.deadline.as_millis() / STALL.as_millis();
    call.idempotent
        && scenario.plan.leaves_one(call.began, end, SETTLING)
        && scenario.plan.strikes(call.began.saturating_sub(STALL), end) as u128 <= survivable
}

fn broken_by(scenario: &Scenario, call: &Finished) -> Option<String> {
    if call.ended - call.began > scenario.load.deadline + LATE {
        return Some(format!("at {:?}, outlived its deadline: {call}", call.began));
    }
    let status = call.result.as_ref().err()?;
    must_succeed(scenario, call).then(|| {
        format!("at {:?}, failed although an instance was there: {call}: {}", call.began, status.message())
    })
}

/// A call reaches servers at most three times, and once where it is not safe
/// to send twice.
fn processed_too_often(outcome: &Outcome) -> Vec<String> {
    let mut arrived: BTreeMap<u64, usize> = BTreeMap::new();
    for head in outcome.services.iter().flat_map(|service| service.heads()) {
        let n = head.headers()[CALL].to_str().unwrap().parse().unwrap();
        *arrived.entry(n).or_default() += 1;
    }
    let most = |call: &Finished| if call.idempotent { 3 } else { 1 };
    let times = |call: &Finished| arrived.get(&call.n).copied().unwrap_or(0);
    let calls = outcome.calls.iter().filter(|call| times(call) > most(call));
    calls.map(|call| format!("arrived {} times: {call}", times(call))).collect()
}

fn dialled_too_often(outcome: &Outcome) -> Vec<String> {
    let mut by_host: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (at, host) in &outcome.dials {
        by_host.entry(host).or_default().push(*at);
    }
    let mut broken = Vec::new();
    for (host, dials) in by_host {
        for (n, at) in dials.iter().enumerate() {
            let within = dials[n..].iter().take_while(|dial| **dial < *at + WINDOW).count();
            if within > DIALS {
                broken.push(format!("{host} was dialled {within} times within {WINDOW:?} from {at:?}"));
                break;
            }
        }
    }
    broken
}

/// After the last fault everything is used again and nothing fails.
fn not_recovered(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let healed = scenario.plan.faults.iter().map(|fault| fault.to).chain(scenario.newcomer).max();
    let calm = healed.unwrap_or_default() + SETTLING;
    let calls = || outcome.calls.iter().filter(move |call| call.began >= calm);
    let failed = calls().filter(|call| call.result.is_err());
    let mut broken: Vec<_> = failed.map(|call| format!("failed after all was healed: {call}")).collect();
    let used: BTreeSet<_> = calls().filter_map(|call| call.hosts.last().cloned()).collect();
    for instance in (0..outcome.services.len()).map(host).filter(|host| !used.contains(host)) {
        broken.push(format!("{instance} is not used after all was healed"));
    }
    broken
}
