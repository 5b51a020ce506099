//! A server's entry in the registry, from start to stop.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use consul_dev::{Agent, Options};
use registry_client::{
    Error, Mesh, ServerConfig,
    consul::{Client, ConsulResolver},
    instance::{Instance, InstanceHealth, KEEPALIVE_MIN},
    resolve::{Resolution, Resolver},
    server::Drain,
};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    scripted::{Connection, Scripted},
    server::within,
};

/// A registered server under test.
struct Registered {
    address: SocketAddr,
    drain: Drain,
    stop: oneshot::Sender<()>,
    run: JoinHandle<Result<(), Error>>,
}

impl Registered {
    async fn start(agent: &str, drain: Duration) -> Self {
        let mut config = ServerConfig::default();
        config.drain = drain;
        let mesh = Mesh::builder().consul(client(agent)).server_config(config).build().unwrap();
        let server = mesh.serve("test").add_service(Scripted::default()).version("1.2.3").tag("blue");
        let server = server.meta("zone", "a");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let drain = server.drain_signal();
        let run = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        Self { address, drain, stop, run }
    }
}

fn client(agent: &str) -> Client {
    Client::builder(agent).build().unwrap()
}

async fn agent() -> Agent {
    Agent::bind("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap()
}

fn view(agent: &str) -> watch::Receiver<Resolution> {
    ConsulResolver::new(client(agent)).resolve(&"test".parse().unwrap())
}

/// The instances as soon as they are as `condition`.
async fn once(
    view: &mut watch::Receiver<Resolution>,
    condition: impl Fn(&[Instance]) -> bool,
) -> Vec<Instance> {
    let fits = |now: &Resolution| now.instances.as_ref().is_some_and(|set| condition(set));
    within(view.wait_for(fits)).await.unwrap().instances.as_deref().unwrap().to_vec()
}

fn all(health: InstanceHealth) -> impl Fn(&[Instance]) -> bool {
    move |set| !set.is_empty() && set.iter().all(|instance| instance.health == health)
}

#[tokio::test]
async fn a_server_registers_leaves_and_deregisters_in_this_order() {
    let agent = agent().await;
    let server = Registered::start(&agent.url(), Duration::from_secs(2)).await;
    let mut view = view(&agent.url());

    let passing = once(&mut view, all(InstanceHealth::Passing)).await;
    let instance = &passing[0];
    assert_eq!(instance.address, server.address.into());
    assert_eq!(instance.id.as_str(), format!("test-127.0.0.1-{}", server.address.port()));
    assert_eq!(instance.tags, ["blue", "grpc"]);
    let meta = |key: &str| instance.meta.get(key).map(String::as_str);
    assert_eq!((meta("protocol"), meta("version"), meta("zone")), (Some("grpc"), Some("1.2.3"), Some("a")));
    assert_eq!(meta(KEEPALIVE_MIN), Some("100ms"), "channels may ping it as often as they are set to");

    server.stop.send(()).unwrap();
    let leaving = once(&mut view, all(InstanceHealth::Maintenance)).await;
    assert!(leaving[0].reason.contains("shutting down"), "{}", leaving[0].reason);
    assert!(!server.drain.is_draining(), "callers must have time to notice it");
    assert_eq!(Connection::open(server.address).await.echo().await, "hello");

    once(&mut view, <[_]>::is_empty).await;
    assert!(server.drain.is_draining());
    within(server.run).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_serves_while_the_agent_is_down_and_registers_once_it_is_up() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Registered::start(&free.to_string(), Duration::ZERO).await;
    assert_eq!(Connection::open(server.address).await.echo().await, "hello");

    let agent = Agent::bind(free, Options::default()).await.unwrap();
    once(&mut view(&agent.url()), all(InstanceHealth::Passing)).await;
    server.stop.send(()).unwrap();
    within(server.run).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_is_dead_or_hangs_delays_the_exit_by_no_more_than_two_seconds() {
    // Takes connections and never says a word.
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for agent in [hung.local_addr().unwrap(), dead] {
        let server = Registered::start(&agent.to_string(), Duration::ZERO).await;
        Connection::open(server.address).await.echo().await;
        let began = Instant::now();
        server.stop.send(()).unwrap();
        within(server.run).await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_millis(2_500), "{agent}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_whole_stop_takes_less_than_ten_seconds_whatever_does_not_end() {
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drain = ServerConfig::default().drain;
    let server = Registered::start(&hung.local_addr().unwrap().to_string(), drain).await;
    let connection = Connection::open(server.address).await;
    let mut endless = connection.begin("test.v1.Scripted/Ticks", &[]).await.unwrap();
    endless.message().await.unwrap().unwrap();
    let began = Instant::now();
    server.stop.send(()).unwrap();
    within(server.drain.draining()).await;
    assert!(began.elapsed() >= drain, "callers must have time to notice it");
    // Neither the stream nor the agent takes any notice.
    assert!(within(endless.message()).await.is_none_or(|m| m.is_err()), "it is cut off in the end");
    within(server.run).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_consul_would_not_take_is_said_before_anything_is_served() {
    let mesh = Mesh::builder().consul(client("127.0.0.1:1")).build().unwrap();
    for (server, words) in [
        (mesh.serve("test").meta("a b", "c"), "meta `a b`"),
        (mesh.serve("test").weight(0), "its weight is 0"),
        (mesh.serve("test").locality("", "a"), "zone `a` needs the region"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = server.run(listener, std::future::pending()).await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}
