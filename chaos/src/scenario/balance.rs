//! R13: who gets how much, and how soon a newcomer does.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use registry_client::{
    ChannelConfig,
    balance::Balancer,
    consul::{CheckSpec, ServiceSpec, Weights},
    instance::InstanceId,
};

use crate::{
    load::{CallLog, Load, Mix, ratio},
    testbed::{LaunchSpec, RegistryKind, Replica, SERVICE, ScenarioSetting, Testbed, passes, ports},
    verdict::ScenarioOutcome,
};

/// How long a newcomer may take to have traffic after the registry shows it.
const NEWCOMER: Duration = Duration::from_secs(2);
/// How long anything may take that is only waited for.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How far from its weight a share may be.
const POINTS: f64 = 0.05;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 4).await?;
    let spread = round_robin(&testbed).await?;

    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let took = newcomer(&mut testbed, &load).await?;
    load.run_for(setting.sized(1, 40, 40) * Duration::from_secs(1)).await;
    let call_log = load.finish().await?;

    let mut outcome =
        ScenarioOutcome::of("four instances, a fifth joins; two of weight 20 and 80", &call_log);
    outcome.detected(Some(took));
    let exact = spread.values().all(|calls| *calls == 25) && spread.len() == 4;
    let counts = format!("{:?}", spread.values().collect::<Vec<_>>());
    outcome.figure(
        "round robin: 100 calls over 4",
        counts,
        "25 each".to_owned(),
        exact,
        "balance/round_robin.rs",
    );
    let share = weighted(&setting).await?;
    outcome.figure(
        "weighted: share of the one of weight 20 beside 80",
        format!("{share:.3}"),
        format!("0.2 ± {POINTS}"),
        (share - 0.2).abs() <= POINTS,
        "balance/weighted.rs",
    );
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.within(
        "a newcomer's first answer, after the watch event",
        Some(took),
        NEWCOMER,
        "channel/pool.rs",
    );
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: is a newcomer picked too early?");
    Ok(outcome)
}

/// The same as the bed's with another balancer, or with none that knows its
/// task.
fn balanced(setting: &ScenarioSetting, balancer: Balancer) -> ChannelConfig {
    let mut config = setting.channel_config();
    config.balancer = if setting.is_disabled("balancing") { Balancer::Random } else { balancer };
    config
}

/// How many of 100 calls each instance answered.
async fn round_robin(testbed: &Testbed) -> Result<BTreeMap<InstanceId, usize>> {
    let channel = testbed.channel_with(balanced(&testbed.setting, Balancer::RoundRobin))?;
    let load = Load::start(channel, Mix::Reads)?;
    // Only once all four are connected is it round robin over four.
    for replica in &testbed.replicas {
        load.wait_for_call(Duration::ZERO, WAIT_TIMEOUT, |call| call.succeeded_on(&replica.id)).await?;
    }
    let from = load.elapsed();
    load.wait_for_call(from, WAIT_TIMEOUT, |call| call.due > from + Duration::from_secs(1)).await?;
    let call_log = load.finish().await?;
    let mut calls = call_log.filter(|call| call.due >= from).all().to_vec();
    calls.sort_by_key(|call| call.due);
    let mut spread = BTreeMap::new();
    for attempt in calls.iter().take(100).flat_map(|call| &call.attempts) {
        *spread.entry(attempt.instance.clone()).or_default() += 1;
    }
    Ok(spread)
}

/// How long after the registry shows another instance that one has answered.
async fn newcomer(testbed: &mut Testbed, load: &Load) -> Result<Duration> {
    let new = testbed.add(&[])?;
    let id = testbed.replicas[new].id.clone();
    let mut view = testbed.view();
    view.wait_for(|now| passes(now, &id)).await?;
    let listed = load.elapsed();
    let first = load.wait_for_call(Duration::ZERO, NEWCOMER * 5, |call| call.succeeded_on(&id)).await?;
    Ok(first.end().saturating_sub(listed))
}

/// The share of the calls that goes to an instance of weight 20 beside one of
/// 80.
async fn weighted(setting: &ScenarioSetting) -> Result<f64> {
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 0).await?;
    let mut small = None;
    for (n, weight) in [20, 80].into_iter().enumerate() {
        let listen = ports::free()?;
        let place = LaunchSpec { listen, wrapper: Vec::new() };
        let replica = Replica::start(&format!("weighted-{n}"), SERVICE, place, None, &[], setting)?;
        let check = CheckSpec::grpc(&listen.into(), "");
        let mut spec = ServiceSpec::new(SERVICE.parse()?, listen.into(), check);
        spec.weights = Weights { passing: weight, warning: weight };
        testbed.consul.register(&spec).await?;
        small.get_or_insert(replica.id.clone());
        testbed.replicas.push(replica);
    }
    testbed.all_passing().await?;
    let load = Load::start(testbed.channel_with(balanced(setting, Balancer::Weighted))?, Mix::Reads)?;
    load.run_for(Duration::from_secs(1)).await;
    let from = load.elapsed();
    load.run_for(WAIT_TIMEOUT / 2).await;
    let call_log: CallLog = load.finish().await?.filter(|call| call.due >= from);
    let went =
        call_log.all().iter().filter(|call| small.as_ref().is_some_and(|id| call.was_sent_to(id))).count();
    Ok(ratio(went, call_log.calls()))
}
