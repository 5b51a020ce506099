//! R15: the registry wrongly reports that there are no instances.

use std::time::Duration;

use anyhow::Result;
use registry_client::{
    Channel,
    consul::{CheckSpec, Client, ServiceSpec},
};

use crate::{
    load::{Load, Mix},
    setting::ScenarioSetting,
    testbed::{FakeRegistry, FakeResponse, LaunchSpec, RegistryKind, Replica, SERVICE, Testbed, ports},
    verdict::ScenarioOutcome,
};

/// The limit on requests a second, whatever the response.
const MAX_QUERIES_PER_SECOND: f64 = 2.0;
/// The shortest gap without a call that counts as a dropped endpoint.
const MIN_DROPPED_GAP: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let time = Duration::from_secs(setting.sized(4, 11, 20));
    let mut testbed = Testbed::start(
        &setting,
        setting.sized(RegistryKind::Dev, RegistryKind::Consul, RegistryKind::Consul),
        0,
    )
    .await?;
    add_unguarded(&mut testbed).await?;
    let fake_registry = FakeRegistry::in_front_of(testbed.registry.address()).await?;
    let load = Load::start(channel(&testbed, fake_registry.client()?)?, Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let from = load.elapsed();
    let mut max_rate = 0.0_f64;
    for fake_response in fake_responses() {
        fake_registry.respond_with(fake_response);
        // A first burst is allowed.
        load.run_for(Duration::from_secs(1)).await;
        let requests_before = fake_registry.requests();
        load.run_for(time).await;
        #[allow(clippy::cast_precision_loss, reason = "a count of questions is far below 2^52")]
        let rate = (fake_registry.requests() - requests_before) as f64 / time.as_secs_f64();
        max_rate = max_rate.max(rate);
        fake_registry.respond_with(FakeResponse::PassThrough);
        load.run_for(setting.warm_up()).await;
    }
    // Now the instances are really deregistered, but still run.
    for replica in &testbed.replicas {
        testbed.consul.deregister(replica.id.as_str()).await?;
    }
    load.run_for(time).await;
    let until = load.elapsed();
    let call_log = load.finish().await?;

    let seconds = time.as_secs();
    let fault = format!("wiped servers, filtered and refused answers, mass deregistration, {seconds} s each");
    let mut outcome = ScenarioOutcome::of(fault, &call_log);
    let gaps = testbed.replicas.iter().flat_map(|r| call_log.gaps(&r.id, from..until, MIN_DROPPED_GAP));
    outcome.at_most("dropped endpoints", gaps.count(), 0, "channel/pool.rs: unlisted instances");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: unlisted instances");
    outcome.below("queries a second", max_rate, MAX_QUERIES_PER_SECOND, "consul/watch/pace.rs");
    Ok(outcome)
}

/// Adds three replicas without a registration loop: a deregistration is final.
pub(super) async fn add_unguarded(testbed: &mut Testbed) -> Result<()> {
    for n in 0..3 {
        let listen = ports::free()?;
        let place = LaunchSpec { listen, wrapper: Vec::new() };
        let replica = Replica::start(&format!("{SERVICE}-{n}"), SERVICE, place, None, &[], &testbed.setting)?;
        let check = CheckSpec::grpc(&listen.into(), "");
        testbed.consul.register(&ServiceSpec::new(SERVICE.parse()?, listen.into(), check)).await?;
        testbed.replicas.push(replica);
    }
    testbed.all_passing().await
}

fn channel(testbed: &Testbed, client: Client) -> Result<Channel> {
    Ok(testbed.setting.mesh(client, testbed.setting.channel_config())?.channel(SERVICE))
}

fn fake_responses() -> [FakeResponse; 4] {
    let known = "Content-Type: application/json\r\nX-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\n";
    let empty = |more: &str| FakeResponse::http("200 OK", &format!("{known}{more}"), "[]");
    [
        // Wiped servers restart their index.
        empty("X-Consul-Index: 7\r\n"),
        // A deleted token filters without an error.
        empty("X-Consul-Index: 90000\r\nX-Consul-Results-Filtered-By-ACLs: true\r\n"),
        empty("X-Consul-Index: 90001\r\nX-Consul-Default-Acl-Policy: deny\r\n"),
        FakeResponse::http("403 Forbidden", "", "ACL not found"),
    ]
}
