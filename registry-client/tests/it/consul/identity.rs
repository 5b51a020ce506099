//! What is one process is one instance, whatever it is registered as, on as
//! many nodes as it is registered on.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use registry_client::{
    Channel,
    balance::Balancer,
    consul::{Client, ConsulResolver},
    telemetry::{ChannelState, InstanceState},
    testing::FaultyServer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    channel::{GET, call, config, echo, methods},
    consul::{
        agents::{TestAgent, eventually},
        liar::{FakeRegistry, Reply},
    },
};

macro_rules! on_each_registry {
    ($($case:ident),* $(,)?) => {
        mod scripted {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Registry::scripted().await).await;
            })*
        }
        mod on_consul {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Registry::consul().await).await;
            })*
        }
    };
}

on_each_registry!(
    two_nodes_with_consuls_default_id_share_evenly,
    a_critical_twin_is_left_out_and_the_other_stays,
    a_deregistered_twin_is_the_one_that_leaves,
    a_twin_that_moved_is_called_where_it_is,
    a_process_that_two_nodes_list_has_one_share_and_its_best_health,
    a_maintenance_of_one_of_two_entries_counts,
    a_process_that_registers_under_another_name_keeps_its_share,
    an_instance_that_restarts_at_another_agent_is_the_same,
);

/// An entry of the service `web`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    node: &'static str,
    id: &'static str,
    port: u16,
    status: &'static str,
}

impl Entry {
    fn on(node: &'static str, id: &'static str, server: &FaultyServer) -> Self {
        Self { node, id, port: server.address().port(), status: "passing" }
    }

    fn is(&self, status: &'static str) -> Self {
        Self { status, ..self.clone() }
    }

    fn check(&self) -> serde_json::Value {
        let Self { node, id, status, .. } = self;
        let (check, status) = match *status {
            "maintenance" => (format!("_service_maintenance:{id}"), "critical"),
            status => (format!("service:{id}"), status),
        };
        serde_json::json!({"Node": node, "CheckID": check, "Name": check, "Status": status, "ServiceID": id})
    }

    fn service(&self) -> serde_json::Value {
        let Self { id, port, .. } = self;
        serde_json::json!({"ID": id, "Service": "web", "Address": "127.0.0.1", "Port": port})
    }
}

/// Where entries of several nodes can be written.
enum Registry {
    /// Responds with its script, at once.
    Scripted(Box<FakeRegistry>, Arc<Mutex<(u64, String)>>),
    /// A real Consul, whose catalogue is written from outside.
    Consul(Box<TestAgent>, Mutex<Vec<Entry>>),
}

impl Registry {
    async fn scripted() -> Self {
        let reported = Arc::new(Mutex::new((1, "[]".to_owned())));
        let scripted = Arc::clone(&reported);
        let liar = FakeRegistry::start(move |_| {
            let (index, body) = scripted.lock().unwrap().clone();
            Reply::good(index, &body)
        })
        .await;
        Self::Scripted(Box::new(liar), reported)
    }

    async fn consul() -> Self {
        Self::Consul(Box::new(TestAgent::consul("").await), Mutex::default())
    }

    fn client(&self) -> Client {
        match self {
            Self::Scripted(liar, _) => liar.client(),
            Self::Consul(agent, _) => agent.client(),
        }
    }

    /// From now on these are all entries. One that stays where it is is
    /// changed in one step.
    async fn set(&self, entries: &[Entry]) {
        match self {
            Self::Scripted(_, reported) => {
                let listed: Vec<_> = entries
                    .iter()
                    .map(|entry| {
                        let node = serde_json::json!({"Node": entry.node, "Address": "127.0.0.1"});
                        serde_json::json!({"Node": node, "Service": entry.service(), "Checks": [entry.check()]})
                    })
                    .collect();
                let mut reported = reported.lock().unwrap();
                *reported = (reported.0 + 1, serde_json::Value::from(listed).to_string());
            }
            Self::Consul(agent, held) => {
                let before = std::mem::replace(&mut *held.lock().unwrap(), entries.to_vec());
                for entry in entries {
                    let body = serde_json::json!({"Node": entry.node, "Address": "127.0.0.1",
                        "Service": entry.service(), "Checks": [entry.check()]});
                    put(agent, "register", body).await;
                }
                let stays = |gone: &Entry| entries.iter().any(|e| (e.node, e.id) == (gone.node, gone.id));
                for gone in before.iter().filter(|before| !stays(before)) {
                    let body = serde_json::json!({"Node": gone.node, "ServiceID": gone.id});
                    put(agent, "deregister", body).await;
                }
            }
        }
    }
}

/// Writes into the catalogue.
async fn put(agent: &TestAgent, what: &str, body: serde_json::Value) {
    let (mut stream, body) = (TcpStream::connect(agent.addr).await.unwrap(), body.to_string());
    let length = body.len();
    let request = format!(
        "PUT /v1/catalog/{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
}

fn web(registry: &Registry) -> Channel {
    let config = config(|config| {
        config.balancer = Balancer::RoundRobin;
        config.slow_start = Duration::ZERO;
    });
    Channel::new("web".parse().unwrap(), &ConsulResolver::new(registry.client()), methods(), config)
}

/// What the channel knows of the instance at this server.
fn at(channel: &Channel, server: &FaultyServer) -> Vec<InstanceState> {
    let here = |state: ChannelState| {
        let address = server.address().to_string();
        state.instances.into_iter().filter(move |instance| instance.address == address)
    };
    channel.state().into_iter().flat_map(here).collect()
}

async fn until(
    channel: &Channel,
    server: &FaultyServer,
    what: &str,
    holds: impl Fn(&[InstanceState]) -> bool,
) {
    eventually(what, || async { holds(&at(channel, server)) }).await;
}

async fn ready(channel: &Channel, server: &FaultyServer) {
    until(channel, server, "it is ready", |all| all.iter().any(|instance| instance.ready)).await;
}

/// Makes calls, all of which succeed; how many each server answered.
async fn calls<const N: usize>(channel: &Channel, number: u64, servers: [&FaultyServer; N]) -> [u64; N] {
    let before = servers.map(|server| server.counts().requests);
    for _ in 0..number {
        call(channel, GET).await.unwrap();
    }
    std::array::from_fn(|i| servers[i].counts().requests - before[i])
}

async fn two_nodes_with_consuls_default_id_share_evenly(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let channel = web(&registry);
    registry.set(&[Entry::on("n1", "web", &one)]).await;
    ready(&channel, &one).await;
    registry.set(&[Entry::on("n1", "web", &one), Entry::on("n2", "web", &other)]).await;
    ready(&channel, &other).await;
    assert_eq!(calls(&channel, 300, [&one, &other]).await, [150, 150]);
    let ids: Vec<String> = channel.state().unwrap().instances.into_iter().map(|i| i.id).collect();
    let mut expected = [&one, &other].map(|server| format!("web@{}", server.address()));
    expected.sort();
    assert_eq!(ids, expected);
}

/// A channel with a connection to each of two twins.
async fn twins(registry: &Registry, one: &FaultyServer, other: &FaultyServer) -> (Channel, [Entry; 2]) {
    let entries = [Entry::on("n1", "web", one), Entry::on("n2", "web", other)];
    let channel = web(registry);
    registry.set(&entries).await;
    ready(&channel, one).await;
    ready(&channel, other).await;
    (channel, entries)
}

async fn a_critical_twin_is_left_out_and_the_other_stays(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let (channel, [n1, n2]) = twins(&registry, &one, &other).await;
    for (entries, ill, well) in
        [([n1.is("critical"), n2.clone()], &one, &other), ([n1.clone(), n2.is("critical")], &other, &one)]
    {
        registry.set(&entries).await;
        until(&channel, ill, "it is out", |all| all.iter().all(|i| i.registry == "critical")).await;
        ready(&channel, well).await;
        assert_eq!(calls(&channel, 40, [ill, well]).await, [0, 40]);
        assert_eq!(channel.state().unwrap().instances.len(), 2);
    }
}

async fn a_deregistered_twin_is_the_one_that_leaves(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let (channel, [n1, n2]) = twins(&registry, &one, &other).await;
    registry.set(&[n1.is("critical"), n2.clone()]).await;
    until(&channel, &one, "it is out", |all| all.iter().all(|i| i.registry == "critical")).await;
    let start = Instant::now();
    registry.set(&[n2]).await;
    // One that answers is kept, as any that leaves, and critical as it was.
    until(&channel, &one, "it has left", |all| all.iter().all(|i| i.registry == "unlisted")).await;
    assert_eq!(at(&channel, &other)[0].registry, "passing");
    assert_eq!(calls(&channel, 40, [&one, &other]).await, [0, 40]);
    // 30 s, and not the ten minutes of a set that collapsed.
    tokio::time::sleep(Duration::from_secs(28).saturating_sub(start.elapsed())).await;
    until(&channel, &one, "it is forgotten", <[_]>::is_empty).await;
}

async fn a_twin_that_moved_is_called_where_it_is(registry: Registry) {
    let (one, other, there) = (echo().await, echo().await, echo().await);
    let (channel, [_, n2]) = twins(&registry, &one, &other).await;
    registry.set(&[Entry::on("n1", "web", &there), n2]).await;
    ready(&channel, &there).await;
    // Another program may still listen at its old address.
    assert_eq!(calls(&channel, 40, [&one, &other, &there]).await, [0, 20, 20]);
    assert_eq!(at(&channel, &one), []);
}

async fn a_process_that_two_nodes_list_has_one_share_and_its_best_health(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let (channel, [n1, n2]) = twins(&registry, &one, &other).await;
    let again = Entry::on("n3", "web", &one);
    let further = Entry::on("n3", "web-again", &one);
    for entries in [
        vec![n1.clone(), n2.clone(), again.clone()],
        vec![n1.is("critical"), n2.clone(), again.clone()],
        vec![n1.clone(), n2.clone(), again.is("critical"), further.is("warning")],
    ] {
        registry.set(&entries).await;
        // The registry has published it when it lists one more instance.
        let (mark, mut marked) = (echo().await, entries);
        marked.push(Entry::on("n9", "mark", &mark));
        registry.set(&marked).await;
        ready(&channel, &mark).await;
        assert_eq!(calls(&channel, 60, [&one, &other, &mark]).await, [20, 20, 20]);
        let seen = at(&channel, &one);
        let reported: Vec<_> = seen.iter().map(|i| (i.registry, i.ready, i.connections)).collect();
        assert_eq!(reported, [("passing", true, 1)], "{marked:?}");
        drop(mark);
        until(&channel, &one, "it stays", |all| all.len() == 1).await;
        registry.set(&[n1.clone(), n2.clone()]).await;
        eventually("only two are left", || async { channel.state().unwrap().instances.len() == 2 }).await;
    }
}

async fn a_maintenance_of_one_of_two_entries_counts(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let (channel, [n1, n2]) = twins(&registry, &one, &other).await;
    registry.set(&[n1, n2, Entry::on("n3", "web", &one).is("maintenance")]).await;
    until(&channel, &one, "it is out", |all| all.iter().all(|i| i.registry == "maintenance")).await;
    assert_eq!(calls(&channel, 40, [&one, &other]).await, [0, 40]);
}

async fn a_process_that_registers_under_another_name_keeps_its_share(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let (channel, [n1, n2]) = twins(&registry, &one, &other).await;
    registry.set(std::slice::from_ref(&n2)).await;
    until(&channel, &one, "it has left", |all| all.iter().all(|i| i.registry == "unlisted")).await;
    registry.set(&[n2.clone(), Entry::on("n1", "web-2", &one)]).await;
    let renamed = |i: &InstanceState| i.id.starts_with("web-2@") && i.ready;
    until(&channel, &one, "it is renamed", |all| all.iter().any(renamed)).await;
    assert_eq!(at(&channel, &one).len(), 1, "one process is one instance");
    assert_eq!(calls(&channel, 40, [&one, &other]).await, [20, 20]);
    // In one step too, back to what it was.
    registry.set(&[n1, n2]).await;
    until(&channel, &one, "it is renamed", |all| all.iter().any(|i| i.id.starts_with("web@") && i.ready))
        .await;
    assert_eq!(at(&channel, &one).len(), 1, "one process is one instance");
    assert_eq!(calls(&channel, 40, [&one, &other]).await, [20, 20]);
}

async fn an_instance_that_restarts_at_another_agent_is_the_same(registry: Registry) {
    let (one, other) = (echo().await, echo().await);
    let (channel, [n1, n2]) = twins(&registry, &one, &other).await;
    // Registered anew through n3, before and after n1 has forgotten it.
    let anew = Entry::on("n3", "web", &one);
    let mark = echo().await;
    registry.set(&[n1, n2.clone(), anew.clone(), Entry::on("n9", "mark", &mark)]).await;
    ready(&channel, &mark).await;
    assert_eq!(calls(&channel, 60, [&one, &other, &mark]).await, [20, 20, 20]);
    let second = echo().await;
    registry.set(&[n2, anew, Entry::on("n9", "mark", &mark), Entry::on("n9", "second", &second)]).await;
    ready(&channel, &second).await;
    assert_eq!(calls(&channel, 80, [&one, &other, &mark, &second]).await, [20, 20, 20, 20]);
    assert_eq!(at(&channel, &one).len(), 1);
}
