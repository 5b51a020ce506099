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

on_each_agent!(an_instance_whose_check_flips_is_held_after_its_second_return);

fn register(agent: &TestAgent, peer: &FaultyServer) -> Registration {
    let spec = ServiceSpec::new("peer".parse().unwrap(), peer.address().into(), CheckSpec::ttl());
    Registration::start(agent.client(), spec).unwrap()
}

fn state(channel: &Channel, peer: &FaultyServer) -> InstanceState {
    let address = peer.address().to_string();
    channel.state().unwrap().instances.into_iter().find(|instance| instance.address == address).unwrap()
}

async fn an_instance_whose_check_flips_is_held_after_its_second_return(agent: TestAgent) {
    let (well, flapping) = (echo().await, echo().await);
    let _well = register(&agent, &well);
    let registration = register(&agent, &flapping);
    let resolver = ConsulResolver::new(agent.client());
    let channel = Channel::new("peer".parse().unwrap(), &resolver, methods(), config(|_| {}));
    eventually("both are ready", || async { channel.state().unwrap().ready == 2 }).await;

    for (status, why) in [
        (CheckStatus::Critical, "as the test says"),
        (CheckStatus::Passing, ""),
        (CheckStatus::Critical, "as the test says"),
        (CheckStatus::Passing, "returned 2 times within a minute; held for "),
        (CheckStatus::Critical, "as the test says"),
        (CheckStatus::Passing, "returned 3 times within a minute; held for "),
    ] {
        registration.report(status, "as the test says");
        eventually("it is listed so", || async { state(&channel, &flapping).registry == status.to_string() }).await;
        let seen = state(&channel, &flapping);
        assert_eq!((seen.ready, seen.why.contains(why)), (why.is_empty(), true), "{seen:?}");
    }
    eventually("it returns", || async { channel.state().unwrap().ready == 2 }).await;
    assert_eq!(state(&channel, &flapping).why, "");
}
