//! The reads of the registry: instances, keys, the agent itself.

use std::time::Duration;

use registry_client::{
    consul::{CheckSpec, CheckStatus, Client, ConsulResolver, Error, ServiceSpec},
    instance::{Instance, InstanceHealth},
    resolve::{Resolution, Resolver},
};
use tokio::{sync::watch, time::timeout};

use crate::consul::agents::{TEST_TIMEOUT, TestAgent, eventually, on_each_agent};

on_each_agent!(
    every_change_of_the_set_is_reported,
    health_weight_tags_and_meta_are_reported,
    a_filter_selects_instances,
    a_filter_that_means_nothing_is_surfaced,
    the_set_outlives_the_agent,
    keys_are_stored_compared_and_watched,
    an_agent_says_what_it_is,
    odd_ids_reach_the_agent_as_they_are,
);

/// An instance that passes from the start.
fn spec(port: u16) -> ServiceSpec {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut spec = ServiceSpec::new("web".parse().unwrap(), address, CheckSpec::ttl());
    spec.check = CheckSpec::Ttl { ttl: Duration::from_secs(300), initial: CheckStatus::Passing };
    spec
}

type View = watch::Receiver<Resolution>;

fn resolve(client: &Client) -> View {
    ConsulResolver::new(client.clone()).resolve(&"web".parse().unwrap())
}

/// Waits until the instances of the view satisfy the condition.
async fn until(view: &mut View, what: &str, condition: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
    let found = view.wait_for(|now| now.instances.as_deref().is_some_and(&condition));
    let found = timeout(TEST_TIMEOUT, found).await.map(|now| now.unwrap().clone());
    let now = found.unwrap_or_else(|_| panic!("not in time: {what}; it is {:?}", view.borrow()));
    now.instances.unwrap().to_vec()
}

async fn every_change_of_the_set_is_reported(agent: TestAgent) {
    let client = agent.client();
    let mut view = resolve(&client);
    until(&mut view, "an unknown service has no instance", <[_]>::is_empty).await;
    for port in [5001, 5002] {
        client.register(&spec(port)).await.unwrap();
    }
    let found = until(&mut view, "both are there", |found| found.len() == 2).await;
    let ids: Vec<&str> = found.iter().map(|instance| instance.id.as_str()).collect();
    assert_eq!(ids, ["web-127.0.0.1-5001", "web-127.0.0.1-5002"]);
    assert!(found.iter().all(|instance| instance.health == InstanceHealth::Passing));
    client.deregister("web-127.0.0.1-5001").await.unwrap();
    let left = until(&mut view, "one is left", |found| found.len() == 1).await;
    assert_eq!(left[0].address.port(), 5002);
    client.deregister("web-127.0.0.1-5002").await.unwrap();
    until(&mut view, "none is left", <[_]>::is_empty).await;
}

async fn health_weight_tags_and_meta_are_reported(agent: TestAgent) {
    let client = agent.client();
    let mut spec = spec(5001);
    (spec.weights.passing, spec.weights.warning) = (7, 3);
    spec.tags = vec!["b".to_owned(), "a".to_owned()];
    spec.meta.insert("version".to_owned(), "v2".to_owned());
    client.register(&spec).await.unwrap();
    let mut view = resolve(&client);
    let found = until(&mut view, "it is there", |found| !found.is_empty()).await;
    assert_eq!(
        (found[0].weight, found[0].tags.join(","), found[0].meta["version"].as_str()),
        (7, "a,b".to_owned(), "v2")
    );
    client.update_check(&spec.check_id(), CheckStatus::Warning, "low on memory").await.unwrap();
    let found = until(&mut view, "it warns", |found| found[0].health == InstanceHealth::Warning).await;
    assert_eq!(found[0].weight, 3);
    client.update_check(&spec.check_id(), CheckStatus::Critical, "out of memory").await.unwrap();
    let found = until(&mut view, "it is critical", |found| found[0].health == InstanceHealth::Critical).await;
    assert!(found[0].reason.contains(&spec.check_id()), "{}", found[0].reason);
    client.maintenance(&spec.id, Some("disk swap")).await.unwrap();
    let found = until(&mut view, "it is out", |found| found[0].health == InstanceHealth::Maintenance).await;
    assert_eq!(found[0].reason, "disk swap");
    client.maintenance(&spec.id, None).await.unwrap();
    client.pass_check(&spec.check_id()).await.unwrap();
    until(&mut view, "it passes", |found| found[0].health == InstanceHealth::Passing).await;
}

async fn a_filter_selects_instances(agent: TestAgent) {
    let client = agent.client();
    let mut canary = spec(5002);
    canary.meta.insert("version".to_owned(), "v2".to_owned());
    client.register(&spec(5001)).await.unwrap();
    client.register(&canary).await.unwrap();
    let resolver = ConsulResolver::new(client.clone()).with_filter(r#"Service.Meta.version == "v2""#);
    let mut view = resolver.resolve(&"web".parse().unwrap());
    let found = until(&mut view, "one matches", |found| !found.is_empty()).await;
    assert_eq!((found.len(), found[0].address.port()), (1, 5002));
    client.deregister(&canary.id).await.unwrap();
    until(&mut view, "none matches", <[_]>::is_empty).await;
}

async fn a_filter_that_means_nothing_is_surfaced(agent: TestAgent) {
    let resolver = ConsulResolver::new(agent.client()).with_filter("Service.Meta ===");
    let mut view = resolver.resolve(&"web".parse().unwrap());
    let failed = view.wait_for(|now| now.error.is_some());
    let error = timeout(TEST_TIMEOUT, failed).await.expect("it fails").unwrap().error.clone().unwrap();
    assert!(error.contains("does not accept") && error.contains("boolean expression"), "{error}");
}

async fn the_set_outlives_the_agent(mut agent: TestAgent) {
    let client = agent.client();
    client.register(&spec(5001)).await.unwrap();
    let mut view = resolve(&client);
    until(&mut view, "it is there", |found| !found.is_empty()).await;
    agent.stop().await;
    let failed = view.wait_for(|now| now.error.is_some());
    let now = timeout(TEST_TIMEOUT, failed).await.expect("it fails").unwrap().clone();
    assert_eq!(now.instances.unwrap().len(), 1, "the last good set is kept");
    assert!(now.error.unwrap().contains(&client.addr().to_string()));
    agent.start().await;
    client.register(&spec(5002)).await.unwrap();
    let found =
        until(&mut view, "the newcomer is there", |found| found.iter().any(|i| i.address.port() == 5002));
    found.await;
    assert_eq!(view.borrow().error, None);
}

async fn keys_are_stored_compared_and_watched(agent: TestAgent) {
    let client = agent.client();
    let mut view = client.kv_watch("shop/rate limit");
    let absent = view.wait_for(|view| view.value == Some(None));
    timeout(TEST_TIMEOUT, absent).await.expect("it is absent").unwrap();
    assert!(client.kv_put("shop/rate limit", b"10", Some(0)).await.unwrap());
    assert!(!client.kv_put("shop/rate limit", b"11", Some(0)).await.unwrap(), "it exists");
    let pair = client.kv_get("shop/rate limit").await.unwrap().unwrap();
    assert_eq!((pair.key.as_str(), pair.value.as_slice()), ("shop/rate limit", &b"10"[..]));
    let reported = view.wait_for(|view| view.value == Some(Some(pair.clone())));
    timeout(TEST_TIMEOUT, reported).await.expect("it is published").unwrap();
    assert!(client.kv_put("shop/rate limit", b"", Some(pair.modify_index)).await.unwrap());
    let reported = view.wait_for(|view| matches!(&view.value, Some(Some(pair)) if pair.value.is_empty()));
    timeout(TEST_TIMEOUT, reported).await.expect("it is published").unwrap();
    assert_eq!(client.kv_list("shop/").await.unwrap().len(), 1);
    assert!(client.kv_delete("shop/rate limit", None).await.unwrap());
    let gone = view.wait_for(|view| view.value == Some(None));
    timeout(TEST_TIMEOUT, gone).await.expect("it is gone").unwrap();
    assert_eq!(client.kv_get("shop/rate limit").await, Ok(None));
    assert!(client.kv_list("shop/").await.unwrap().is_empty());
}

async fn an_agent_says_what_it_is(agent: TestAgent) {
    let client = agent.client();
    let (this, version) = (client.agent_self().await.unwrap(), client.version().await.unwrap());
    assert_eq!(this.config.datacenter, "dc1");
    assert!(version.at_least(1, 8) && !version.is_enterprise(), "{version}");
    client.register(&spec(5001)).await.unwrap();
    let listed = || async { client.catalog_services().await.unwrap().contains_key("web") };
    eventually("the catalogue has it", listed).await;
    let absent = client.service("missing").await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
}

async fn odd_ids_reach_the_agent_as_they_are(agent: TestAgent) {
    let client = agent.client();
    for id in ["a b", "ü/ö?&=%2F", "x#y"] {
        let mut odd = spec(5001);
        odd.id = id.to_owned();
        client.register(&odd).await.unwrap();
        assert_eq!(client.service(id).await.unwrap().id, id);
        client.deregister(id).await.unwrap();
    }
    assert!(client.services().await.unwrap().is_empty());
    let refused = client.deregister("a/../b").await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}
