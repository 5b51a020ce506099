//! Channels and servers put together.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use registry_client::{
    Channel, ChannelConfig, Error, Mesh,
    consul::{Client, Discovery},
    instance::{Instance, ServiceName},
    resolve::{Resolution, Resolver},
};
use tokio::{sync::watch, task::JoinSet};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::server::{Running, within};

/// A resolver with a fixed answer that counts its calls.
#[derive(Clone, Default)]
struct CountingResolver {
    instances: HashMap<&'static str, Vec<Instance>>,
    resolved: Arc<AtomicUsize>,
}

impl Resolver for CountingResolver {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        self.resolved.fetch_add(1, Relaxed);
        let instances = self.instances.get(service.as_str()).cloned().unwrap_or_default();
        watch::channel(Resolution::found(instances)).1
    }
}

fn mesh(resolver: &CountingResolver) -> Mesh {
    let mut config = ChannelConfig::default();
    config.deadline = Duration::from_secs(5);
    Mesh::builder().resolver(resolver.clone()).channel_config(config).build().unwrap()
}

pub(crate) async fn echo(channel: Channel) -> Result<String, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/test.v1.Scripted/Echo");
    let request = Request::new("hello".to_owned());
    Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
}

#[tokio::test]
async fn a_mesh_without_a_registry_cannot_be_built() {
    let said = Mesh::builder().build().unwrap_err();
    assert!(matches!(said, Error::Config(_)));
    assert!(said.to_string().contains("registry"), "{said}");
}

#[tokio::test]
async fn a_discovery_that_cannot_be_is_refused_when_the_mesh_is_built() {
    let consul = || Client::builder("127.0.0.1:1").build().unwrap();
    let v2 = || Discovery::default().filter("Service.Meta.version == v2");
    let cases = [
        (
            Mesh::builder().resolver(CountingResolver::default()).discover("cart", v2()),
            "MeshBuilder::resolver",
        ),
        (
            Mesh::builder().consul(consul()).resolver(CountingResolver::default()).discover("cart", v2()),
            "MeshBuilder::resolver",
        ),
        (Mesh::builder().discover("cart", v2()), "no registry"),
        (Mesh::builder().consul(consul()).discover("no/name", v2()), "`no/name`"),
        (Mesh::builder().consul(consul()).discover("cart", v2().filter("")), "the filter is empty"),
        (Mesh::builder().consul(consul()).discover("cart", v2().datacenter("a/b")), "`a/b`"),
    ];
    for (builder, words) in cases {
        let said = builder.build().unwrap_err();
        assert!(matches!(said, Error::Config(_)) && said.to_string().contains(words), "{said}");
    }
    Mesh::builder().consul(consul()).discover("cart", v2()).build().unwrap();
}

#[tokio::test]
async fn channels_to_one_service_share_one_look_up() {
    let reported = CountingResolver::default();
    let mesh = mesh(&reported);
    let _kept = [mesh.channel("cart-service"), mesh.channel("cart-service")];
    assert_eq!(reported.resolved.load(Relaxed), 1);
    let _other = mesh.channel("order-service");
    assert_eq!(reported.resolved.load(Relaxed), 2);
}

#[tokio::test]
async fn a_channel_to_an_impossible_name_fails_each_call_saying_so() {
    let refused = echo(mesh(&CountingResolver::default()).channel("no/name")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("`no/name`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_fails_no_call() {
    let (leaving, staying) = (Running::start(|_| {}).await, Running::start(|_| {}).await);
    let both = [("leaving", leaving.address), ("staying", staying.address)];
    let both = both.map(|(id, address)| Instance::new(id, address.into()));
    let reported = CountingResolver {
        instances: HashMap::from([("test", both.to_vec())]),
        ..CountingResolver::default()
    };
    let channel = mesh(&reported).channel("test");
    let (enough, called) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));

    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (channel, enough, called) = (channel.clone(), enough.clone(), called.clone());
        callers.spawn(async move {
            while !enough.load(Relaxed) {
                echo(channel.clone()).await?;
                called.fetch_add(1, Relaxed);
            }
            Ok::<_, Status>(())
        });
    }
    let calls = async |more: usize| {
        let goal = called.load(Relaxed) + more;
        while called.load(Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(calls(1_000)).await;
    leaving.stop.send(()).unwrap();
    within(leaving.run).await.unwrap().unwrap();
    within(calls(1_000)).await;
    enough.store(true, Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap().unwrap();
    }
}
