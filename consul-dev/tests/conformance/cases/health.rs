//! `/v1/health`: instances and checks.

use serde_json::{Value, json};

use super::{Case, QUERY, cases, check, node, serf_health};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        an_instance_has_this_shape,
        an_empty_instance_has_this_shape,
        given_but_empty_meta_is_no_null.since((1, 22, 0), "older catalogs make null of it"),
        named_ports_and_locality_have_this_shape.since((1, 22, 0), "there were none"),
        a_locality_is_returned_as_given.since((1, 16, 0), "there were none"),
        a_locality_that_changes_alone_does_not_reach_the_catalog
            .since((1, 22, 0), "it was not checked before"),
        a_native_service_gets_a_virtual_address.since((1, 22, 0), "there were none"),
        connect_reads_give_native_instances_only,
        no_instance_is_an_empty_list,
        a_service_is_found_whatever_its_case,
        passing_leaves_out_what_is_not,
        tags_must_all_be_there,
        checks_of_a_service,
        checks_by_state,
        checks_of_a_node,
        the_consistency_is_returned.since((1, 10, 0), "it was not"),
        a_cached_read_is_streamed_and_says_so.since((1, 10, 0), "the streaming backend was not the default"),
    ]
}

fn instance(target: &Target, service: Value, checks: Value) -> Value {
    let mut shape = json!({
        "Tags": [], "Address": "", "Meta": null, "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": false, "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
        "PeerName": "", "CreateIndex": "<index>", "ModifyIndex": "<index>",
    });
    if !target.since(1, 22) {
        shape["Proxy"] = json!("<any>");
        shape.as_object_mut().unwrap().remove("PeerName");
        shape["<more>"] = json!(true);
    }
    super::merge(&mut shape, service);
    json!({"Node": node(target), "Service": shape, "Checks": checks})
}

async fn an_instance_has_this_shape(target: Target) {
    target
        .register(json!({
            "ID": "health-1", "Name": "health", "Tags": ["a", "b"], "Meta": {"version": "v2"},
            "Address": "127.0.0.1", "Port": 9001, "Weights": {"Passing": 10, "Warning": 1},
            "Check": {"CheckID": "health-c", "Name": "beat", "TTL": "10m", "Status": "passing"},
        }))
        .await;
    let at = json!({"Address": "127.0.0.1", "Port": 9001});
    let service = json!({
        "ID": "health-1", "Service": "health", "Tags": ["a", "b"], "Address": "127.0.0.1",
        "TaggedAddresses": {"lan_ipv4": at, "wan_ipv4": at}, "Meta": {"version": "v2"}, "Port": 9001,
        "Weights": {"Passing": 10, "Warning": 1},
    });
    let own = json!({
        "CheckID": "health-c", "Name": "beat", "Status": "passing", "ServiceID": "health-1",
        "ServiceName": "health", "ServiceTags": ["a", "b"], "Type": "ttl",
    });
    let checks = json!([serf_health(&target), check(&target, true, own)]);
    let reply = target.get("/v1/health/service/health").await;
    reply.is_status(200).has_json(&json!([instance(&target, service, checks)]));
    if target.since(1, 10) {
        reply.has_headers(QUERY);
    }
    reply.has_header("x-consul-knownleader", "true").has_header("x-consul-lastcontact", "0");
    let body = reply.json();
    assert_eq!(body[0]["Service"]["ModifyIndex"], reply.index(), "a registration is one write");
    assert_eq!(body[0]["Checks"][1]["CreateIndex"], reply.index());
}

async fn an_empty_instance_has_this_shape(target: Target) {
    target.register(json!({"Name": "health-empty"})).await;
    let mut service = json!({"ID": "health-empty", "Service": "health-empty"});
    if !target.since(1, 10) {
        service["Port"] = json!(0);
    }
    let expected = instance(&target, service, json!([serf_health(&target)]));
    target.get("/v1/health/service/health-empty").await.has_json(&json!([expected]));
}

async fn given_but_empty_meta_is_no_null(target: Target) {
    target.register(json!({"Name": "health-meta", "Meta": {}})).await;
    let seen = target.get("/v1/health/service/health-meta").await.json();
    assert_eq!(seen[0]["Service"]["Meta"], json!({}));
}

async fn named_ports_and_locality_have_this_shape(target: Target) {
    let ports = json!([{"Name": "http", "Port": 80, "Default": true}]);
    target.register(json!({"Name": "health-ports", "Ports": ports, "Locality": {"Region": "eu"}})).await;
    let service = json!({
        "ID": "health-ports", "Service": "health-ports", "Port": 80, "Ports": ports, "Locality": {"Region": "eu"},
    });
    let expected = instance(&target, service, json!([serf_health(&target)]));
    target.get("/v1/health/service/health-ports").await.has_json(&json!([expected]));
}

async fn a_locality_is_returned_as_given(target: Target) {
    for (id, locality) in
        [("health-zone", json!({"Region": "eu", "Zone": "a"})), ("health-region", json!({"Region": "eu"}))]
    {
        target.register(json!({"Name": id, "Port": 5, "Locality": locality})).await;
        let read = target.get(format!("/v1/health/service/{id}")).await;
        let index = read.index() - 1;
        let streamed = target.get(format!("/v1/health/service/{id}?index={index}&wait=5s")).await;
        streamed.has_header("x-consul-query-backend", "streaming");
        for reply in [read, streamed] {
            assert_eq!(reply.json()[0]["Service"]["Locality"], locality);
        }
    }
}

async fn a_locality_that_changes_alone_does_not_reach_the_catalog(target: Target) {
    let seen = async |path: &str| target.get(path).await.json();
    let mut definition =
        json!({"Name": "health-moved", "Port": 5, "Locality": {"Region": "eu", "Zone": "a"}});
    target.register(definition.clone()).await;
    definition["Locality"] = json!({"Region": "us"});
    target.register(definition.clone()).await;
    let own = seen("/v1/agent/service/health-moved").await;
    assert_eq!(own["Locality"], json!({"Region": "us", "Zone": ""}));
    let listed = seen("/v1/health/service/health-moved").await;
    assert_eq!(listed[0]["Service"]["Locality"], json!({"Region": "eu", "Zone": "a"}));
    definition["Meta"] = json!({"locality": "us"});
    target.register(definition).await;
    let listed = seen("/v1/health/service/health-moved").await;
    assert_eq!(listed[0]["Service"]["Locality"], json!({"Region": "us"}));
}

async fn a_native_service_gets_a_virtual_address(target: Target) {
    target.register(json!({"Name": "health-native", "Port": 5, "Connect": {"Native": true}})).await;
    let service = json!({
        "ID": "health-native", "Service": "health-native", "Port": 5, "Connect": {"Native": true},
        "TaggedAddresses": {"consul-virtual": {"Address": "<text>", "Port": 5}},
    });
    let expected = json!([instance(&target, service, json!([serf_health(&target)]))]);
    target.get("/v1/health/service/health-native").await.has_json(&expected);
    target.get("/v1/health/connect/health-native").await.has_json(&expected);
}

async fn connect_reads_give_native_instances_only(target: Target) {
    target.register(json!({"Name": "health-mixed", "ID": "health-mixed-1"})).await;
    target.get("/v1/health/connect/health-mixed").await.has_json(&json!([]));
    target
        .register(
            json!({"Name": "health-mixed", "ID": "health-mixed-2", "Port": 5, "Connect": {"Native": true}}),
        )
        .await;
    let seen = target.get("/v1/health/connect/health-mixed").await.json();
    assert_eq!(seen.as_array().unwrap().len(), 1);
    assert_eq!(seen[0]["Service"]["ID"], "health-mixed-2");
}

async fn no_instance_is_an_empty_list(target: Target) {
    for path in ["service", "connect", "checks"] {
        let reply = target.get(format!("/v1/health/{path}/health-unknown")).await;
        reply.is_status(200).has_text("[]");
        if target.since(1, 10) {
            reply.has_headers(QUERY);
        }
        assert!(reply.index() > 1, "{}", reply.index());
    }
}

async fn a_service_is_found_whatever_its_case(target: Target) {
    target.register(json!({"Name": "Health-Case", "Check": {"TTL": "10m"}})).await;
    for path in ["health/service", "health/checks", "catalog/service"] {
        let found = target.get(format!("/v1/{path}/heaLTH-case")).await.json();
        assert_eq!(found.as_array().unwrap().len(), 1, "{path}");
    }
}

async fn ids(target: &Target, query: &str) -> Vec<String> {
    let seen = target.get(format!("/v1/health/service/{query}")).await.json();
    let seen = seen.as_array().unwrap().iter();
    seen.map(|instance| instance["Service"]["ID"].as_str().unwrap().to_owned()).collect()
}

async fn passing_leaves_out_what_is_not(target: Target) {
    for status in ["passing", "warning", "critical"] {
        let check = json!({"TTL": "10m", "Status": status});
        target
            .register(json!({"Name": "health-pass", "ID": format!("health-pass-{status}"), "Check": check}))
            .await;
    }
    let all = ["health-pass-critical", "health-pass-passing", "health-pass-warning"];
    assert_eq!(ids(&target, "health-pass").await, all, "in the order of their ids");
    assert_eq!(ids(&target, "health-pass?passing=false").await, all);
    for passing in ["passing", "passing=true", "passing=1"] {
        assert_eq!(ids(&target, &format!("health-pass?{passing}")).await, ["health-pass-passing"]);
    }
}

async fn tags_must_all_be_there(target: Target) {
    target.register(json!({"Name": "health-tag", "ID": "health-tag-1", "Tags": ["a", "b"]})).await;
    target.register(json!({"Name": "health-tag", "ID": "health-tag-2", "Tags": ["a"]})).await;
    assert_eq!(ids(&target, "health-tag?tag=a").await, ["health-tag-1", "health-tag-2"]);
    assert_eq!(ids(&target, "health-tag?tag=A&tag=b").await, ["health-tag-1"]);
    assert_eq!(ids(&target, "health-tag?tag=c").await, Vec::<String>::new());
}

async fn checks_of_a_service(target: Target) {
    target
        .register(json!({"Name": "health-checks", "Check": {"CheckID": "health-checks-c", "TTL": "10m"}}))
        .await;
    let shape = json!({
        "CheckID": "health-checks-c", "Name": "Service 'health-checks' check", "ServiceID": "health-checks",
        "ServiceName": "health-checks", "Type": "ttl",
    });
    let reply = target.get("/v1/health/checks/health-checks").await;
    reply.is_status(200).has_json(&json!([check(&target, true, shape)]));
}

async fn checks_by_state(target: Target) {
    let definition = json!({"CheckID": "health-state-c", "TTL": "10m", "Status": "warning"});
    target.register(json!({"Name": "health-state", "Check": definition})).await;
    let in_state = async |state: &str| {
        let checks = target.get(format!("/v1/health/state/{state}")).await.json();
        checks.as_array().unwrap().iter().any(|check| check["CheckID"] == "health-state-c")
    };
    assert!(in_state("any").await);
    assert!(in_state("warning").await);
    assert!(!in_state("passing").await);
    let unknown = target.get("/v1/health/state/bogus").await;
    unknown.is_status(200).has_text("[]");
}

async fn checks_of_a_node(target: Target) {
    let checks = target.get("/v1/health/node/conformance").await.json();
    let serf = checks.as_array().unwrap().iter().find(|check| check["CheckID"] == "serfHealth").cloned();
    crate::pattern::compare(&serf_health(&target), &serf.expect("no serfHealth")).unwrap();
    target.get("/v1/health/node/unknown").await.is_status(200).has_text("[]");
}

async fn the_consistency_is_returned(target: Target) {
    for (query, consistency) in [("", "leader"), ("?stale", "stale"), ("?consistent", "consistent")] {
        for path in ["/v1/health/service/consul", "/v1/health/state/any", "/v1/catalog/service/consul"] {
            let reply = target.get(format!("{path}{query}")).await;
            reply.is_status(200).has_header("x-consul-effective-consistency", consistency);
            reply.has_header("x-consul-query-backend", "blocking-query");
        }
    }
}

async fn a_cached_read_is_streamed_and_says_so(target: Target) {
    target.register(json!({"Name": "health-cached"})).await;
    // The first read may fill the cache.
    target.get("/v1/health/service/health-cached?cached").await.is_status(200);
    let reply = target.get("/v1/health/service/health-cached?cached").await;
    reply.is_status(200).has_header("x-consul-query-backend", "streaming");
    reply.has_header("x-cache", "HIT").has_header("age", "0");
    let text = "Cannot specify ?cached with ?consistent, conflicting semantics.";
    target.get("/v1/health/service/health-cached?cached&consistent").await.is_error(400, text);
}
