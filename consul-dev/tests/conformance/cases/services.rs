//! `/v1/agent`: the agent itself and its services.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{Case, PLAIN, cases};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        the_agent_describes_itself,
        the_version_needs_no_more_than_a_get.since((1, 22, 0), "there was no such endpoint"),
        a_service_has_this_shape,
        an_empty_service_has_this_shape,
        a_placed_service_with_named_ports_has_this_shape
            .since((1, 22, 0), "no localities or named ports before"),
        a_native_service_has_this_shape,
        an_unknown_service_is_404,
        the_content_hash_follows_the_definition_only,
        an_equal_hash_waits_until_the_time_is_up,
        a_changed_definition_wakes_a_hash_query_at_once,
        a_deregistration_wakes_a_hash_query_with_404,
        another_hash_answers_at_once,
        agent_health_gives_the_worst_verdict,
        agent_health_of_an_unknown_service_is_404,
        agent_health_answers_in_plain_text.since((1, 22, 0), "the text of a 404 was in quotes"),
    ]
}

async fn the_agent_describes_itself(target: Target) {
    let reply = target.get("/v1/agent/self").await;
    reply.is_status(200).has_headers(PLAIN).has_header("content-type", "application/json");
    let config = json!({
        "<more>": true, "Datacenter": "dc1", "NodeName": "conformance", "NodeID": "<uuid>",
        "Revision": "<text>", "Server": true, "Version": "<text>",
    });
    reply.has_json(&json!({"<more>": true, "Config": config, "Member": {"<more>": true, "Status": 1}}));
    if target.since(1, 22) {
        let debug = json!({"<more>": true, "UseStreamingBackend": true, "HTTPMaxConnsPerClient": 200});
        let config = json!({"<more>": true, "PrimaryDatacenter": "dc1", "BindAddr": "127.0.0.1"});
        reply.has_json(&json!({"<more>": true, "Config": config, "DebugConfig": debug, "Meta": {"<more>": true, "consul-network-segment": ""}}));
    }
}

async fn the_version_needs_no_more_than_a_get(target: Target) {
    let reply = target.get("/v1/agent/version").await;
    let expected =
        json!({"SHA": "<text>", "BuildDate": "<text>", "HumanVersion": "<text>", "FIPS": "<text>"});
    reply.is_status(200).has_headers(PLAIN).has_json(&expected);
}

async fn a_service_has_this_shape(target: Target) {
    target
        .register(json!({
            "ID": "svc-1", "Name": "svc", "Tags": ["a", "b"], "Meta": {"version": "v2", "markup": "<&>"},
            "Address": "127.0.0.1", "Port": 9001, "Weights": {"Passing": 10, "Warning": 1},
        }))
        .await;
    let at = json!({"Address": "127.0.0.1", "Port": 9001});
    let mut expected = json!({
        "ID": "svc-1", "Service": "svc", "Tags": ["a", "b"], "Meta": {"version": "v2", "markup": "<&>"},
        "Port": 9001, "Address": "127.0.0.1", "TaggedAddresses": {"lan_ipv4": at, "wan_ipv4": at},
        "Weights": {"Passing": 10, "Warning": 1}, "EnableTagOverride": false, "Datacenter": "dc1",
    });
    if !target.since(1, 10) {
        expected["<more>"] = json!(true);
        expected.as_object_mut().unwrap().remove("Datacenter");
    }
    let all = target.get("/v1/agent/services").await;
    all.is_status(200).has_headers(PLAIN);
    crate::pattern::compare(&expected, &all.json()["svc-1"]).unwrap();
    assert!(all.text().contains(r"\u003c\u0026\u003e"), "markup is escaped in JSON");

    expected["ContentHash"] = json!("<text>");
    let one = target.get("/v1/agent/service/svc-1").await;
    one.is_status(200).has_headers(&["content-type", "x-consul-contenthash", "x-consul-default-acl-policy"]);
    one.has_json(&expected);
    let hash = one.json()["ContentHash"].as_str().unwrap().to_owned();
    one.has_header("x-consul-contenthash", &hash);
    assert!(hash.len() <= 16 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{hash}");
}

async fn an_empty_service_has_this_shape(target: Target) {
    target.register(json!({"Name": "svc-empty"})).await;
    let mut expected = json!({
        "ID": "svc-empty", "Service": "svc-empty", "Tags": [], "Meta": {}, "Port": 0, "Address": "",
        "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false, "ContentHash": "<text>",
        "Datacenter": "dc1",
    });
    if !target.since(1, 10) {
        expected.as_object_mut().unwrap().remove("Datacenter");
    }
    target.get("/v1/agent/service/svc-empty").await.has_json(&expected);
}

async fn a_placed_service_with_named_ports_has_this_shape(target: Target) {
    target
        .register(json!({
            "Name": "svc-placed", "Locality": {"Region": "eu"},
            "Ports": [{"Name": "grpc", "Port": 81}, {"Name": "http", "Port": 80, "Default": true}],
        }))
        .await;
    let ports = json!([
        {"Name": "grpc", "Port": 81, "Default": false}, {"Name": "http", "Port": 80, "Default": true},
    ]);
    target.get("/v1/agent/service/svc-placed").await.has_json(&json!({
        "ID": "svc-placed", "Service": "svc-placed", "Tags": [], "Meta": {}, "Port": 80, "Address": "",
        "Ports": ports, "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
        "ContentHash": "<text>", "Datacenter": "dc1",
        "Locality": {"Region": "eu", "Zone": ""},
    }));
}

async fn a_native_service_has_this_shape(target: Target) {
    target.register(json!({"Name": "svc-native", "Port": 5, "Connect": {"Native": true}})).await;
    let expected = json!({"<more>": true, "Port": 5, "Connect": {"Native": true}});
    target.get("/v1/agent/service/svc-native").await.has_json(&expected);
}

async fn an_unknown_service_is_404(target: Target) {
    let reply = target.get("/v1/agent/service/svc-unknown").await;
    reply.is_status(404).has_text("unknown service ID: svc-unknown");
}

async fn hash_of(target: &Target, id: &str) -> String {
    target.get(format!("/v1/agent/service/{id}")).await.header("x-consul-contenthash").to_owned()
}

async fn the_content_hash_follows_the_definition_only(target: Target) {
    target.register(json!({"Name": "svc-hash", "Port": 1, "Check": {"TTL": "10m"}})).await;
    let first = hash_of(&target, "svc-hash").await;
    target.put("/v1/agent/check/pass/service:svc-hash", "").await.is_done();
    assert_eq!(hash_of(&target, "svc-hash").await, first, "checks are not in the hash");
    target.register(json!({"Name": "svc-hash", "Port": 2, "Check": {"TTL": "10m"}})).await;
    assert_ne!(hash_of(&target, "svc-hash").await, first);
    target.register(json!({"Name": "svc-hash", "Port": 1, "Check": {"TTL": "10m"}})).await;
    assert_eq!(hash_of(&target, "svc-hash").await, first, "the same definition, the same hash");
}

async fn an_equal_hash_waits_until_the_time_is_up(target: Target) {
    target.register(json!({"Name": "svc-wait"})).await;
    let hash = hash_of(&target, "svc-wait").await;
    let reply = target.get(format!("/v1/agent/service/svc-wait?hash={hash}&wait=1s")).await;
    reply.is_status(200).has_header("x-consul-contenthash", &hash);
    assert!(reply.took >= Duration::from_secs(1) && reply.took < Duration::from_secs(2), "{:?}", reply.took);
}

async fn a_changed_definition_wakes_a_hash_query_at_once(target: Target) {
    target.register(json!({"Name": "svc-wake", "Port": 1})).await;
    let hash = hash_of(&target, "svc-wake").await;
    let waiting = target.get(format!("/v1/agent/service/svc-wake?hash={hash}&wait=20s"));
    let change = async {
        sleep(Duration::from_millis(200)).await;
        target.register(json!({"Name": "svc-wake", "Port": 2})).await;
    };
    let (reply, ()) = tokio::join!(waiting, change);
    assert_eq!(reply.json()["Port"], 2);
    assert_ne!(reply.header("x-consul-contenthash"), hash);
    assert!(reply.took < Duration::from_secs(5), "{:?}", reply.took);
}

async fn a_deregistration_wakes_a_hash_query_with_404(target: Target) {
    target.register(json!({"Name": "svc-leave"})).await;
    let hash = hash_of(&target, "svc-leave").await;
    let waiting = target.get(format!("/v1/agent/service/svc-leave?hash={hash}&wait=20s"));
    let change = async {
        sleep(Duration::from_millis(200)).await;
        target.deregister("svc-leave").await;
    };
    let (reply, ()) = tokio::join!(waiting, change);
    reply.is_status(404).has_text("unknown service ID: svc-leave");
    assert!(reply.took < Duration::from_secs(5), "{:?}", reply.took);
}

async fn another_hash_answers_at_once(target: Target) {
    target.register(json!({"Name": "svc-other"})).await;
    let reply = target.get("/v1/agent/service/svc-other?hash=1&wait=20s").await;
    reply.is_status(200);
    assert!(reply.took < Duration::from_secs(5), "{:?}", reply.took);
}

async fn agent_health_gives_the_worst_verdict(target: Target) {
    target
        .register(json!({"ID": "svc-h-1", "Name": "svc-h", "Check": {"TTL": "10m", "Status": "passing"}}))
        .await;
    target
        .register(json!({"ID": "svc-h-2", "Name": "svc-h", "Check": {"TTL": "10m", "Status": "warning"}}))
        .await;
    target
        .register(json!({"ID": "svc-h-3", "Name": "svc-h", "Checks": [
            {"TTL": "10m", "Status": "passing"}, {"TTL": "10m", "Status": "critical"},
        ]}))
        .await;
    for (id, status, verdict) in
        [("svc-h-1", 200, "passing"), ("svc-h-2", 429, "warning"), ("svc-h-3", 503, "critical")]
    {
        let reply = target.get(format!("/v1/agent/health/service/id/{id}")).await;
        reply.is_status(status).has_header("x-consul-reason", verdict);
        reply.has_headers(&["content-type", "x-consul-default-acl-policy", "x-consul-reason"]);
        reply.has_json(
            &json!({"AggregatedStatus": verdict, "Service": {"<more>": true, "ID": id}, "Checks": "<any>"}),
        );
    }
    if target.since(1, 22) {
        let check = json!({
            "Node": "conformance", "CheckID": "service:svc-h-1", "Name": "Service 'svc-h' check",
            "Status": "passing", "Notes": "", "Output": "", "ServiceID": "svc-h-1", "ServiceName": "svc-h",
            "ServiceTags": null, "Type": "", "ExposedPort": 0, "CreateIndex": 0, "ModifyIndex": 0,
            "Definition": {
                "Interval": "0s", "Timeout": "0s", "DeregisterCriticalServiceAfter": "0s", "HTTP": "",
                "Header": null, "Method": "", "Body": "", "TLSServerName": "", "TLSSkipVerify": false, "TCP": "",
                "TCPUseTLS": false, "UDP": "", "GRPC": "", "OSService": "", "GRPCUseTLS": false,
            },
        });
        let reply = target.get("/v1/agent/health/service/id/svc-h-1").await;
        reply.has_json(&json!({"<more>": true, "Checks": [check]}));
    }
    let reply = target.get("/v1/agent/health/service/name/svc-h").await;
    reply.is_status(503).has_header("x-consul-reason", "critical");
    let mut verdicts: Vec<String> =
        reply.json().as_array().unwrap().iter().map(|one| one["AggregatedStatus"].to_string()).collect();
    verdicts.sort();
    assert_eq!(verdicts, ["\"critical\"", "\"passing\"", "\"warning\""]);

    target.put("/v1/agent/service/maintenance/svc-h-1?enable=true", "").await.is_done();
    let reply = target.get("/v1/agent/health/service/id/svc-h-1").await;
    reply.is_status(503).has_header("x-consul-reason", "maintenance");
}

async fn agent_health_of_an_unknown_service_is_404(target: Target) {
    let reply = target.get("/v1/agent/health/service/name/svc-unknown").await;
    reply.is_status(404).has_text("[]").has_header("x-consul-reason", "ServiceName svc-unknown Not Found");
    let reply = target.get("/v1/agent/health/service/id/svc-unknown").await;
    reply.is_status(404).has_header("x-consul-reason", "ServiceId svc-unknown not found");
    reply.has_json(&json!({"AggregatedStatus": "critical", "Service": null, "Checks": null}));
}

async fn agent_health_answers_in_plain_text(target: Target) {
    target.register(json!({"Name": "svc-plain"})).await;
    for (path, status, text) in [
        ("id/svc-plain", 200, "passing"),
        ("name/svc-plain", 200, "passing"),
        ("id/svc-unknown", 404, "ServiceId svc-unknown not found"),
        ("name/svc-unknown", 404, "ServiceName svc-unknown Not Found"),
    ] {
        let reply = target.get(format!("/v1/agent/health/service/{path}?format=text")).await;
        reply.is_status(status).has_text(text).has_header("content-type", "text/plain");
    }
}
