//! One service's instances by a filter or from another datacenter.

use std::time::{Duration, Instant};

use registry_client::{
    Channel, ChannelConfig, Mesh, MeshBuilder,
    consul::{CheckSpec, CheckStatus, ConsulResolver, Discovery, ServiceSpec},
    resolve::Resolver,
};
use tonic::{Code, Status};

use crate::{
    consul::agents::{TestAgent, eventually, on_each_agent},
    mesh::echo,
    server::Running,
};

on_each_agent!(
    a_filter_picks_one_version_of_one_service,
    a_filter_that_consul_rejects_is_named_by_the_call_and_is_not_asked_again_soon,
    a_datacenter_without_a_path_is_named_by_the_call_and_is_not_asked_in_a_spin,
    sets_of_different_discoveries_are_remembered_apart,
);

/// Long enough for the agents to notice.
const WHILE: Duration = Duration::from_secs(6);
const V2: &str = r#"Service.Meta.version == "v2""#;

/// Registers `server`, which passes from the start.
pub(crate) async fn register(agent: &TestAgent, server: &Running, version: &str) {
    let mut spec = ServiceSpec::new("test".parse().unwrap(), server.address.into(), CheckSpec::ttl());
    spec.check = CheckSpec::Ttl { ttl: Duration::from_secs(300), initial: CheckStatus::Passing };
    spec.meta.insert("version".to_owned(), version.to_owned());
    agent.client().register(&spec).await.unwrap();
}

/// Two servers of the service `test`.
async fn v1_and_v2(agent: &TestAgent) -> [Running; 2] {
    let servers = [Running::start(|_| {}).await, Running::start(|_| {}).await];
    for (server, version) in servers.iter().zip(["v1", "v2"]) {
        register(agent, server, version).await;
    }
    servers
}

fn builder(agent: &TestAgent) -> MeshBuilder {
    let mut config = ChannelConfig::default();
    config.deadline = Duration::from_secs(3);
    Mesh::builder().consul(agent.client()).channel_config(config)
}

/// The addresses that calls can go to.
fn ready(channel: &Channel) -> Vec<String> {
    let state = channel.state().unwrap();
    let mut ready: Vec<_> = state.instances.into_iter().filter(|i| i.ready).map(|i| i.address).collect();
    ready.sort();
    ready
}

/// The error of a call that waited for an instance in vain.
async fn failed(channel: Channel) -> Status {
    let error = || async { channel.state().unwrap().resolver_error.is_some() };
    eventually("the look-up fails", error).await;
    let failed = echo(channel.clone()).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    failed
}

fn addresses<const N: usize>(servers: [&Running; N]) -> Vec<String> {
    let mut addresses: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
    addresses.sort();
    addresses
}

async fn a_filter_picks_one_version_of_one_service(agent: TestAgent) {
    let [v1, v2] = v1_and_v2(&agent).await;
    // The last discovery of a service holds, however its name is written.
    let mesh = builder(&agent)
        .discover("test", Discovery::default().filter(r#"Service.Meta.version == "v1""#))
        .discover("Test", Discovery::default().filter(V2));
    let channel = mesh.build().unwrap().channel("test");
    assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
    assert_eq!(ready(&channel), addresses([&v2]));
    register(&agent, &v1, "v2").await;
    eventually("v1 became v2", || async { ready(&channel) == addresses([&v1, &v2]) }).await;
    // The discovery of another service changes nothing.
    let plain = builder(&agent).discover("other", Discovery::default().filter("Service.Port == 1"));
    let plain = plain.build().unwrap().channel("test");
    eventually("both are found", || async { ready(&plain) == addresses([&v1, &v2]) }).await;
}

async fn a_filter_that_consul_rejects_is_named_by_the_call_and_is_not_asked_again_soon(agent: TestAgent) {
    let _servers = v1_and_v2(&agent).await;
    let wrong = Discovery::default().filter("Service.Meta ===");
    let channel = builder(&agent).discover("test", wrong.clone()).build().unwrap().channel("test");
    let failed = failed(channel).await;
    for words in ["with filter `Service.Meta ===`", "Failed to create boolean expression evaluator"] {
        assert!(failed.message().contains(words), "{failed}");
    }
    let (client, name) = (agent.client(), "test".parse().unwrap());
    let resolver = ConsulResolver::new(client).with_discovery(wrong);
    let _view = resolver.resolve(&name);
    let counters = resolver.counters(&name).unwrap();
    eventually("it was queried", || async { counters.errors.get() == 1 }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(counters.queries.get(), 1);
}

async fn a_datacenter_without_a_path_is_named_by_the_call_and_is_not_asked_in_a_spin(agent: TestAgent) {
    let _servers = v1_and_v2(&agent).await;
    let (client, name) = (agent.client(), "test".parse().unwrap());
    let nowhere = Discovery::default().datacenter("dc9");
    let mesh = builder(&agent).consul(client.clone()).discover("test", nowhere.clone()).build().unwrap();
    let failed = failed(mesh.channel("test")).await;
    for words in ["datacenter `dc9`", "No path to datacenter", "consul catalog datacenters"] {
        assert!(failed.message().contains(words), "{failed}");
    }
    // The watch of the mesh, for it is by the same client.
    let counters = ConsulResolver::new(client).with_discovery(nowhere).counters(&name).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!((1..=10).contains(&counters.queries.get()), "{counters:?}");
    assert_eq!(counters.queries.get(), counters.errors.get());
}

async fn sets_of_different_discoveries_are_remembered_apart(mut agent: TestAgent) {
    let [v1, v2] = v1_and_v2(&agent).await;
    let dir = tempfile::tempdir().unwrap();
    let mesh = |version: &str| {
        let discovery = Discovery::default().filter(format!("Service.Meta.version == \"{version}\""));
        builder(&agent).state_dir(dir.path()).discover("test", discovery).build().unwrap()
    };
    let before = [("v1", &v1), ("v2", &v2)].map(|(version, server)| (mesh(version), server));
    for (mesh, server) in &before {
        let channel = mesh.channel("test");
        assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
        assert_eq!(ready(&channel), addresses([server]));
    }
    let files = || std::fs::read_dir(dir.path().join("snapshots")).map_or(0, Iterator::count);
    eventually("both are saved", || async { files() == 2 }).await;
    drop(before);
    let meshes = [("v1", &v1), ("v2", &v2)].map(|(version, server)| (mesh(version), server));
    let (plain, never) = (builder(&agent).state_dir(dir.path()).build().unwrap(), mesh("v3"));
    agent.stop().await;
    for (after, server) in meshes {
        let channel = after.channel("test");
        assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
        assert_eq!(ready(&channel), addresses([server]));
    }
    for forgetful in [plain, never] {
        let failed = failed(forgetful.channel("test")).await;
        assert!(failed.message().contains("it was never resolved"), "{failed}");
    }
}

#[tokio::test]
async fn a_service_of_another_datacenter_is_found_there_and_called_while_its_registry_is_gone() {
    let [here, mut there] = TestAgent::datacenters().await;
    let [v1, v2] = v1_and_v2(&there).await;
    let in_dc2 = Discovery::default().datacenter("dc2");
    let [channel, canary] = [in_dc2.clone(), in_dc2.filter(V2)]
        .map(|discovery| builder(&here).discover("test", discovery).build().unwrap().channel("test"));
    for (channel, servers) in [(&channel, addresses([&v1, &v2])), (&canary, addresses([&v2]))] {
        assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
        eventually("all are ready", || async { ready(channel) == servers }).await;
    }
    let without = echo(builder(&here).build().unwrap().channel("test")).await.unwrap_err();
    assert!(without.message().contains("the registry lists none"), "{without}");

    there.stop().await;
    let error = || channel.state().unwrap().resolver_error.unwrap_or_default();
    eventually("its registry is missed", || async { error().contains("datacenter `dc2`") }).await;
    let start = Instant::now();
    while start.elapsed() < WHILE {
        for channel in [&channel, &canary] {
            assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(error().contains("cannot reach datacenter `dc2`"), "{}", error());
    assert_eq!((ready(&channel), ready(&canary)), (addresses([&v1, &v2]), addresses([&v2])));

    there.start().await;
    let newcomer = Running::start(|_| {}).await;
    register(&there, &newcomer, "v2").await;
    for channel in [&channel, &canary] {
        let found = || async { ready(channel).contains(&newcomer.address.to_string()) };
        eventually("the newcomer is found", found).await;
    }
}
