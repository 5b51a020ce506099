//! An instance whose check in the registry flips, as a channel sees it.

use registry_client::{
    Channel,
    consul::{CheckSpec, CheckStatus, ConsulResolver, Registration, ServiceSpec},
    telemetry::InstanceState,
    testing::FaultyServer,
};

use crate::{
    channel::{config, echo, methods},
    consul::agents::{TestAgent, eventually, on_each_agent},
};

on_each_agent!(an_instance_whose_check_flips_is_held_and_returns_by_itself);

fn register(agent: &TestAgent, peer: &FaultyServer) -> Registration {
    let spec = ServiceSpec::new("peer".parse().unwrap(), peer.address().into(), CheckSpec::ttl());
    Registration::start(agent.client(), spec).unwrap()
}

fn state(channel: &Channel, peer: &FaultyServer) -> InstanceState {
    let address = peer.address().to_string();
    channel.state().unwrap().instances.into_iter().find(|instance| instance.address == address).unwrap()
}

async fn an_instance_whose_check_flips_is_held_and_returns_by_itself(agent: TestAgent) {
    let (well, flapping) = (echo().await, echo().await);
    let _well = register(&agent, &well);
    let registration = register(&agent, &flapping);
    let resolver = ConsulResolver::new(agent.client());
    let channel = Channel::new("peer".parse().unwrap(), &resolver, methods(), config(|_| {}));
    // Before their first report both are critical, and used as a last resort.
    let is_well = |instance: &InstanceState| instance.ready && instance.why.is_empty();
    let are_well = || async { channel.state().unwrap().instances.iter().filter(|i| is_well(i)).count() == 2 };
    eventually("both are well", are_well).await;

    let flip = async || {
        for status in [CheckStatus::Critical, CheckStatus::Passing] {
            registration.report(status, "as the test says");
            let listed = || async { state(&channel, &flapping).registry == status.to_string() };
            eventually("it is listed so", listed).await;
            assert!(status == CheckStatus::Passing || !state(&channel, &flapping).ready, "it is out at once");
        }
        state(&channel, &flapping)
    };
    let first = flip().await;
    assert!(is_well(&first), "{first:?}");
    flip().await;
    let third = flip().await;
    assert!(!third.ready && third.why.starts_with("returned 3 times within a minute; held for"), "{third:?}");
    eventually("it returns", are_well).await;
}
