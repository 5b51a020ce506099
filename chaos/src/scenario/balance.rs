//! R13: the distribution of calls, and the time until a new instance gets
//! traffic.

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
    setting::ScenarioSetting,
    testbed::{LaunchSpec, RegistryKind, Replica, SERVICE, Testbed, passes, ports},
    verdict::ScenarioOutcome,
};

/// The limit on the time from a new instance's registration to its first call.
const MAX_TIME_TO_TRAFFIC: Duration = Duration::from_secs(2);
/// The limit on other waits.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on the difference between a share and its weight.
const MAX_SHARE_ERROR: f64 = 0.05;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut testbed = Testbed::start(&setting, RegistryKind::Dev, 4).await?;
    let counts_by_instance = round_robin(&testbed).await?;

    let load = Load::start(testbed.channel()?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let delay = time_to_traffic(&mut testbed, &load).await?;
    load.run_for(setting.sized(1, 40, 40) * Duration::from_secs(1)).await;
    let call_log = load.finish().await?;

    let mut outcome =
        ScenarioOutcome::of("four instances, a fifth joins; two of weight 20 and 80", &call_log);
    outcome.detected(Some(delay));
    let exact = counts_by_instance.values().all(|calls| *calls == 25) && counts_by_instance.len() == 4;
    let counts = format!("{:?}", counts_by_instance.values().collect::<Vec<_>>());
    outcome.figure(
        "round robin: 100 calls over 4",
        counts,
        "25 each".to_owned(),
        exact,
        "balance/round_robin.rs",
    );
    let share = weighted_share(&setting).await?;
    outcome.figure(
        "weighted: share of the one of weight 20 beside 80",
        format!("{share:.3}"),
        format!("0.2 ± {MAX_SHARE_ERROR}"),
        (share - 0.2).abs() <= MAX_SHARE_ERROR,
        "balance/weighted.rs",
    );
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.within(
        "a newcomer's first response, after the watch event",
        Some(delay),
        MAX_TIME_TO_TRAFFIC,
        "channel/pool.rs",
    );
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: when a newcomer is picked");
    Ok(outcome)
}

/// The testbed's channel configuration with another balancer; a random one if
/// balancing is off.
fn channel_config(setting: &ScenarioSetting, balancer: Balancer) -> ChannelConfig {
    let mut config = setting.channel_config();
    config.balancer = if setting.is_disabled("balancing") { Balancer::Random } else { balancer };
    config
}

/// The number of calls, of 100, on each instance.
async fn round_robin(testbed: &Testbed) -> Result<BTreeMap<InstanceId, usize>> {
    let channel = testbed.channel_with(channel_config(&testbed.setting, Balancer::RoundRobin))?;
    let load = Load::start(channel, Mix::Reads)?;
    // Round robin covers all four only once all are connected.
    for replica in &testbed.replicas {
        load.wait_for_call(Duration::ZERO, WAIT_TIMEOUT, |call| call.succeeded_on(&replica.id)).await?;
    }
    let from = load.elapsed();
    load.wait_for_call(from, WAIT_TIMEOUT, |call| call.due > from + Duration::from_secs(1)).await?;
    let call_log = load.finish().await?;
    let mut calls = call_log.filter(|call| call.due >= from).all().to_vec();
    calls.sort_by_key(|call| call.due);
    let mut counts_by_instance = BTreeMap::new();
    for attempt in calls.iter().take(100).flat_map(|call| &call.attempts) {
        *counts_by_instance.entry(attempt.instance.clone()).or_default() += 1;
    }
    Ok(counts_by_instance)
}

/// The time from a new instance's registration to its first response.
async fn time_to_traffic(testbed: &mut Testbed, load: &Load) -> Result<Duration> {
    let new = testbed.add(&[])?;
    let id = testbed.replicas[new].id.clone();
    let mut view = testbed.view();
    view.wait_for(|now| passes(now, &id)).await?;
    let listed = load.elapsed();
    let first =
        load.wait_for_call(Duration::ZERO, MAX_TIME_TO_TRAFFIC * 5, |call| call.succeeded_on(&id)).await?;
    Ok(first.end().saturating_sub(listed))
}

/// The share of the calls that goes to an instance of weight 20 beside one of
/// 80.
async fn weighted_share(setting: &ScenarioSetting) -> Result<f64> {
    let mut testbed = Testbed::start(setting, RegistryKind::Dev, 0).await?;
    let mut small_instance = None;
    for (n, weight) in [20, 80].into_iter().enumerate() {
        let listen = ports::free()?;
        let place = LaunchSpec { listen, wrapper: Vec::new() };
        let replica = Replica::start(&format!("weighted-{n}"), SERVICE, place, None, &[], setting)?;
        let check = CheckSpec::grpc(&listen.into(), "");
        let mut spec = ServiceSpec::new(SERVICE.parse()?, listen.into(), check);
        spec.weights = Weights { passing: weight, warning: weight };
        testbed.consul.register(&spec).await?;
        small_instance.get_or_insert(replica.id.clone());
        testbed.replicas.push(replica);
    }
    testbed.all_passing().await?;
    let load = Load::start(testbed.channel_with(channel_config(setting, Balancer::Weighted))?, Mix::Reads)?;
    load.run_for(Duration::from_secs(1)).await;
    let from = load.elapsed();
    load.run_for(WAIT_TIMEOUT / 2).await;
    let call_log: CallLog = load.finish().await?.filter(|call| call.due >= from);
    let small_calls = call_log
        .all()
        .iter()
        .filter(|call| small_instance.as_ref().is_some_and(|id| call.was_sent_to(id)))
        .count();
    Ok(ratio(small_calls, call_log.calls()))
}
