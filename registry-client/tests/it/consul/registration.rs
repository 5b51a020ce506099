//! An instance stays registered, whatever happens to its entry.

use std::{net::SocketAddr, time::Duration};

use registry_client::consul::{
    CheckSpec, CheckStatus, Client, HealthEntry, HealthQuery, Registration, RegistrationState, ServiceSpec,
};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::consul::agents::{TEST_TIMEOUT, TestAgent, eventually, on_each_agent};

on_each_agent!(
    an_instance_passes_within_seconds,
    a_foreign_deregistration_is_healed_at_once,
    an_agent_that_forgot_everything_is_registered_again,
    an_agent_that_is_not_there_yet_is_waited_for,
    an_operators_maintenance_is_left_alone,
    a_maintenance_of_its_own_outlasts_the_agent_and_not_the_process,
    an_entry_that_somebody_changed_is_restored,
    a_check_that_somebody_removed_is_restored,
    a_check_of_an_earlier_version_is_removed,
    a_ttl_check_tells_what_the_instance_reports,
    deregistering_leaves_nothing_behind,
);

/// A gRPC server that says SERVING, for the agent to probe.
pub(crate) struct Peer {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming);
        Self { address, server: tokio::spawn(async { server.await.unwrap() }) }
    }

    pub(crate) fn spec(&self) -> ServiceSpec {
        let address = self.address.into();
        ServiceSpec::new("cart".parse().unwrap(), address, CheckSpec::grpc(&self.address.into(), ""))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn ttl_spec() -> ServiceSpec {
    ServiceSpec::new("cart".parse().unwrap(), "127.0.0.1:5000".parse().unwrap(), CheckSpec::ttl())
}

async fn registered(registration: &Registration) {
    let mut state = registration.state();
    let registered = state.wait_for(|state| *state == RegistrationState::Registered);
    timeout(TEST_TIMEOUT, registered).await.expect("it is registered in time").unwrap();
}

/// The entry of the one instance of `cart` in the catalogue.
async fn listed(client: &Client) -> Option<HealthEntry> {
    client.health("cart", &HealthQuery::default()).await.ok()?.pop()
}

async fn passes(client: &Client) -> bool {
    let all_pass = |entry: HealthEntry| entry.checks.iter().all(|check| check.status == CheckStatus::Passing);
    listed(client).await.is_some_and(all_pass)
}

async fn an_instance_passes_within_seconds(agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let mut spec = peer.spec();
    spec.tags = vec!["a".to_owned()];
    spec.meta.insert("version".to_owned(), "v1".to_owned());
    let registration = Registration::start(client.clone(), spec).unwrap();
    registered(&registration).await;
    let took = eventually("it passes", || passes(&client)).await;
    assert!(took < Duration::from_secs(4), "a newcomer served only after {took:?}");
    let service = listed(&client).await.unwrap().service;
    assert_eq!((service.tags, service.meta["version"].as_str()), (vec!["a".to_owned()], "v1"));
    assert_eq!(i64::from(peer.address.port()), service.port);
}

async fn a_foreign_deregistration_is_healed_at_once(agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    steady(&client).await;
    // More often than a burst of registrations allows at once.
    for _ in 0..4 {
        registered(&registration).await;
        let mut state = registration.state();
        state.mark_unchanged();
        let start = Instant::now();
        client.deregister(&registration.spec().id).await.unwrap();
        timeout(TEST_TIMEOUT, state.changed()).await.expect("the loss is noticed").unwrap();
        registered(&registration).await;
        let healed = start.elapsed();
        assert!(client.service(&registration.spec().id).await.is_ok());
        assert!(healed < REGISTERED, "healed only after {healed:?}");
        let passing = passing_after(&client).await;
        println!("registered again after {healed:?}, passing {passing:?} later");
    }
}

/// Until the instance passes, and its registration, which looks after one,
/// three and seven seconds, has seen so.
async fn steady(client: &Client) {
    eventually("it passes", || passes(client)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// R18: registered again so long after the agent is reachable again.
const REGISTERED: Duration = Duration::from_secs(5);
/// R18: passing again so long after that.
const PASSING: Duration = Duration::from_secs(2);

/// How long until the servers show it as passing, which is what R18 allows.
async fn passing_after(client: &Client) -> Duration {
    let took = eventually("it passes", || passes(client)).await;
    assert!(took < PASSING, "passing only {took:?} after it was registered");
    took
}

async fn an_agent_that_forgot_everything_is_registered_again(mut agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    steady(&client).await;
    agent.stop().await;
    let mut state = registration.state();
    let lost = state.wait_for(|state| *state != RegistrationState::Registered);
    let words = format!("{:?}", *timeout(TEST_TIMEOUT, lost).await.expect("the loss is noticed").unwrap());
    assert!(words.contains("cannot reach Consul at"), "{words}");
    agent.start().await;
    let id = registration.spec().id.clone();
    let took = eventually("it is back", || async { client.service(&id).await.is_ok() }).await;
    assert!(took < REGISTERED, "back only after {took:?}");
    let passing = passing_after(&client).await;
    println!("registered again {took:?} after the agent has a leader, passing {passing:?} later");
    registered(&registration).await;
}

async fn an_agent_that_is_not_there_yet_is_waited_for(mut agent: TestAgent) {
    agent.stop().await;
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    let mut state = registration.state();
    let says = |state: &RegistrationState| format!("{state:?}").contains("CONSUL_HTTP_ADDR");
    timeout(TEST_TIMEOUT, state.wait_for(says)).await.expect("it says what is wrong").unwrap();
    agent.start().await;
    registered(&registration).await;
    assert!(client.service(&registration.spec().id).await.is_ok());
}

async fn an_operators_maintenance_is_left_alone(agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    registered(&registration).await;
    let id = registration.spec().id.clone();
    client.maintenance(&id, Some("disk swap")).await.unwrap();
    // A change by another writer makes it register again.
    let mut other = registration.spec().clone();
    other.tags.push("foreign".to_owned());
    client.register(&other).await.unwrap();
    let restored = || async { client.service(&id).await.is_ok_and(|service| service.tags.is_empty()) };
    eventually("its tags are restored", restored).await;
    let checks = client.checks().await.unwrap();
    assert_eq!(checks[&format!("_service_maintenance:{id}")].notes, "disk swap");
}

async fn a_maintenance_of_its_own_outlasts_the_agent_and_not_the_process(mut agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    registered(&registration).await;
    let id = registration.spec().id.clone();
    let check = format!("_service_maintenance:{id}");
    registration.maintenance("stopping").await.unwrap();
    assert!(client.checks().await.unwrap()[&check].notes.starts_with("stopping"));
    agent.stop().await;
    agent.start().await;
    let kept = || async { client.checks().await.is_ok_and(|checks| checks.contains_key(&check)) };
    eventually("it is out of service at the new agent", kept).await;
    // Killed before it could deregister; its successor has the same id.
    drop(registration);
    let _successor = Registration::start(client.clone(), peer.spec()).unwrap();
    eventually("the successor is in service", || async { !kept().await }).await;
    assert!(client.service(&id).await.is_ok());
}

async fn an_entry_that_somebody_changed_is_restored(agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    registered(&registration).await;
    let id = registration.spec().id.clone();
    let mut other = registration.spec().clone();
    other.address = "127.0.0.1:1".parse().unwrap();
    client.register(&other).await.unwrap();
    let port = i64::from(peer.address.port());
    let restored = || async { client.service(&id).await.is_ok_and(|service| service.port == port) };
    let took = eventually("its port is restored", restored).await;
    assert!(took < Duration::from_secs(5), "restored only after {took:?}");
}

async fn a_check_that_somebody_removed_is_restored(agent: TestAgent) {
    let client = agent.client();
    let registration = Registration::start(client.clone(), ttl_spec()).unwrap();
    registered(&registration).await;
    eventually("it passes", || passes(&client)).await;
    client.deregister_check(&registration.spec().check_id()).await.unwrap();
    // The next beat finds out, a third of 30 s later at most.
    let back = || async { client.checks().await.unwrap().contains_key(&registration.spec().check_id()) };
    let took = eventually("its check is back", back).await;
    assert!(took < Duration::from_secs(14), "back only after {took:?}");
    eventually("it passes", || passes(&client)).await;
}

async fn a_check_of_an_earlier_version_is_removed(agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let mut earlier = peer.spec();
    earlier.check = CheckSpec::ttl();
    client.register(&earlier).await.unwrap();
    let _registration = Registration::start(client.clone(), peer.spec()).unwrap();
    let gone = || async { !client.checks().await.unwrap().contains_key(&earlier.check_id()) };
    eventually("the old check is gone", gone).await;
    eventually("it passes", || passes(&client)).await;
}

async fn a_ttl_check_tells_what_the_instance_reports(agent: TestAgent) {
    let client = agent.client();
    let registration = Registration::start(client.clone(), ttl_spec()).unwrap();
    let took = eventually("it passes", || passes(&client)).await;
    assert!(took < Duration::from_secs(4), "it passed only after {took:?}");
    for status in [CheckStatus::Warning, CheckStatus::Critical, CheckStatus::Passing] {
        registration.report(status, "as the test says");
        let check = registration.spec().check_id();
        let reported = || async { client.checks().await.unwrap()[&check].status == status };
        let took = eventually("the status is published", reported).await;
        assert!(took < Duration::from_secs(4), "published only after {took:?}");
    }
}

async fn deregistering_leaves_nothing_behind(agent: TestAgent) {
    let (client, peer) = (agent.client(), Peer::start().await);
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    registered(&registration).await;
    registration.deregister().await.unwrap();
    assert!(client.services().await.unwrap().is_empty());
    let registration = Registration::start(client.clone(), peer.spec()).unwrap();
    registered(&registration).await;
    // Somebody was faster, which is no error.
    client.deregister(&registration.spec().id).await.unwrap();
    registration.deregister().await.unwrap();
    eventually("the catalogue has nothing", || async { listed(&client).await.is_none() }).await;
}
