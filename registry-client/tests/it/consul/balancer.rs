//! A balancer between an instance and several agents of a real Consul.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use registry_client::consul::{
    CheckSpec, CheckStatus, Client, HealthEntry, HealthQuery, Registration, RegistrationState, ServiceSpec,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    consul::{
        agents::{TEST_TIMEOUT, TestAgent, eventually},
        registration::Peer,
    },
    log::Log,
};

/// What is said of it, once.
const BALANCER: &str = "is a balancer before several agents";

/// Sends each connection to the next agent. Its connections end with it.
struct Balancer {
    addr: SocketAddr,
    task: AbortHandle,
}

impl Balancer {
    async fn before(agents: &[TestAgent]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let agents: Vec<SocketAddr> = agents.iter().map(|agent| agent.addr).collect();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for agent in agents.iter().cycle() {
                let (mut client, _) = listener.accept().await.unwrap();
                let agent = *agent;
                connections.spawn(async move {
                    let mut agent = TcpStream::connect(agent).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut agent).await;
                });
            }
        });
        Self { addr, task: task.abort_handle() }
    }

    fn client(&self) -> Client {
        Client::builder(&self.addr.to_string()).build().unwrap()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The entries of `cart`, as the leader has them.
async fn entries(agent: &TestAgent) -> Vec<HealthEntry> {
    agent.client().health("cart", &HealthQuery::default()).await.unwrap()
}

/// The nodes whose own agent has an instance of `cart`.
async fn nodes(agents: &[TestAgent]) -> BTreeSet<usize> {
    let mut nodes = BTreeSet::new();
    for (n, agent) in agents.iter().enumerate() {
        if !agent.client().services().await.unwrap().is_empty() {
            nodes.insert(n);
        }
    }
    nodes
}

async fn registered(registration: &Registration) {
    let mut state = registration.state();
    let registered = state.wait_for(|state| *state == RegistrationState::Registered);
    timeout(TEST_TIMEOUT, registered).await.expect("it is registered in time").unwrap();
}

fn ttl_spec() -> ServiceSpec {
    ServiceSpec::new("cart".parse().unwrap(), "127.0.0.1:5000".parse().unwrap(), CheckSpec::ttl())
}

#[tokio::test]
async fn an_instance_behind_a_balancer_stands_at_one_agent_and_leaves_none_behind() {
    let (log, _on) = Log::begin();
    let agents = TestAgent::cluster().await;
    let (balancer, peer) = (Balancer::before(&agents).await, Peer::start().await);
    let registration = Registration::start(balancer.client(), peer.spec()).unwrap();
    eventually("it says so", || async { !log.lines(BALANCER).is_empty() }).await;
    eventually("one agent has it", || async { nodes(&agents).await.len() == 1 }).await;
    registered(&registration).await;
    for _ in 0..100 {
        let entries = entries(&agents[0]).await;
        assert_eq!(entries.len(), 1, "it stands at one agent: {:?}", log.lines(""));
        sleep(Duration::from_millis(100)).await;
    }
    let passes = |entry: &HealthEntry| entry.checks.iter().all(|check| check.status == CheckStatus::Passing);
    eventually("it passes", || async { entries(&agents[0]).await.iter().all(passes) }).await;
    let said = log.lines(BALANCER);
    assert!(said.len() == 1 && said[0].contains("set CONSUL_HTTP_ADDR to the agent of this"), "{said:?}");

    // A foreign deregistration is healed, although most agents never knew it.
    let at = nodes(&agents).await.into_iter().next().unwrap();
    agents[at].client().deregister(&registration.spec().id).await.unwrap();
    eventually("it is back", || async { nodes(&agents).await.len() == 1 }).await;

    registration.maintenance("stopping").await.unwrap();
    let maintained =
        |entry: &HealthEntry| entry.checks.iter().any(|check| check.id.starts_with("_service_maintenance"));
    let is_out = || async { entries(&agents[0]).await.iter().all(maintained) };
    eventually("all of it is out of service", is_out).await;
    registration.deregister().await.unwrap();
    assert_eq!(nodes(&agents).await, BTreeSet::new(), "no agent has it any more");
}

#[tokio::test]
async fn a_heartbeat_finds_its_agent_behind_a_balancer() {
    let (log, _on) = Log::begin();
    let agents = TestAgent::cluster().await;
    let balancer = Balancer::before(&agents).await;
    let registration = Registration::start(balancer.client(), ttl_spec()).unwrap();
    eventually("it says so", || async { !log.lines(BALANCER).is_empty() }).await;
    eventually("one agent has it", || async { nodes(&agents).await.len() == 1 }).await;
    for status in [CheckStatus::Warning, CheckStatus::Critical, CheckStatus::Passing] {
        registration.report(status, "as the test says");
        let reported = || async {
            let entries = entries(&agents[0]).await;
            let check = registration.spec().check_id();
            entries.len() == 1 && entries[0].checks.iter().any(|has| has.id == check && has.status == status)
        };
        let took = eventually("its status is published", reported).await;
        assert!(took < Duration::from_secs(4), "{status} was published only after {took:?}");
    }
    registration.deregister().await.unwrap();
    assert_eq!(nodes(&agents).await, BTreeSet::new(), "no agent has it any more");
}

#[tokio::test]
async fn an_instance_that_stops_at_once_leaves_nothing_at_any_agent() {
    let agents = TestAgent::cluster().await;
    for _ in 0..5 {
        let (balancer, peer) = (Balancer::before(&agents).await, Peer::start().await);
        let registration = Registration::start(balancer.client(), peer.spec()).unwrap();
        registered(&registration).await;
        registration.deregister().await.unwrap();
        assert_eq!(nodes(&agents).await, BTreeSet::new(), "no agent has it any more");
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_at_another_agent_is_named_and_ours_stays() {
    let (log, _on) = Log::begin();
    let agents = TestAgent::cluster().await;
    let peer = Peer::start().await;
    agents[1].client().register(&peer.spec()).await.unwrap();
    eventually("it is listed", || async { entries(&agents[0]).await.len() == 1 }).await;
    let registration = Registration::start(agents[0].client(), peer.spec()).unwrap();
    let id = registration.spec().id.clone();
    let words = format!("Run `consul services deregister -id={id}` on the other node");
    eventually("it says so", || async { !log.lines(&words).is_empty() }).await;
    assert_eq!(nodes(&agents).await, BTreeSet::from([0, 1]));
    registration.deregister().await.unwrap();
    // An entry that is out of reach stays, as the log says.
    assert_eq!(nodes(&agents).await, BTreeSet::from([1]));
}
