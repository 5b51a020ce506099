//! Three servers of a real Consul, and fewer.

use std::time::Duration;

use registry_client::{
    consul::{CheckSpec, CheckStatus, ConsulResolver, Registration, RegistrationState, ServiceSpec},
    resolve::Resolver,
};
use tokio::time::{Instant, sleep, timeout};

use crate::consul::agents::{TEST_TIMEOUT, TestAgent};

/// Long enough for an election and for a watch that notices its lack.
const WHILE: Duration = Duration::from_secs(8);

fn spec(port: u16) -> ServiceSpec {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut spec = ServiceSpec::new("web".parse().unwrap(), address, CheckSpec::ttl());
    spec.check = CheckSpec::Ttl { ttl: Duration::from_secs(300), initial: CheckStatus::Passing };
    spec
}

#[tokio::test]
async fn discovery_outlives_the_leader_and_the_quorum() {
    let mut servers = TestAgent::cluster().await;
    let leader = servers[0].client().leader().await.unwrap().unwrap();
    let leads = servers.iter().position(|server| server.serves(&leader)).unwrap();
    servers.swap(0, leads);
    let client = servers[2].client();
    println!("on {} of three servers", client.version().await.unwrap());
    let registration = Registration::start(client.clone(), spec(5001)).unwrap();
    let name = "web".parse().unwrap();
    let mut view = ConsulResolver::new(client.clone()).resolve(&name);
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
    timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap();
    // The leader first, then with another the quorum.
    for (turn, server) in servers[..2].iter_mut().enumerate() {
        server.stop().await;
        let stopped = Instant::now();
        while stopped.elapsed() < WHILE {
            let now = view.borrow().clone();
            assert_eq!((now.error, now.instances.map(|found| found.len())), (None, Some(1)), "{turn}");
            assert_eq!(*registration.state().borrow(), RegistrationState::Registered);
            sleep(Duration::from_millis(50)).await;
        }
        // A new service is resolved too.
        let filter = format!("Service.Port != {turn}");
        let mut other = ConsulResolver::new(client.clone()).with_filter(filter).resolve(&name);
        let found = other.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
        timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap();
    }
    servers[1].start().await;
    client.register(&spec(5002)).await.unwrap();
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 2));
    timeout(TEST_TIMEOUT, found).await.expect("the newcomer is found").unwrap();
}
