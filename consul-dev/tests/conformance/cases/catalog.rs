//! `/v1/catalog` and `/v1/status`.

use serde_json::{Value, json};

use super::{Case, PLAIN, QUERY, cases, node};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        services_are_listed_with_all_their_tags,
        a_service_has_this_shape,
        an_empty_service_has_this_shape,
        no_instance_is_an_empty_list,
        nodes_have_this_shape,
        a_node_has_its_services,
        an_unknown_node_is_null,
        the_datacenters_are_listed,
        the_leader_and_the_peers_are_returned,
    ]
}

async fn services_are_listed_with_all_their_tags(target: Target) {
    target.register(json!({"Name": "cat", "ID": "cat-1", "Tags": ["a", "b"]})).await;
    target.register(json!({"Name": "cat", "ID": "cat-2", "Tags": ["b", "c"]})).await;
    target.register(json!({"Name": "cat-none"})).await;
    let reply = target.get("/v1/catalog/services").await;
    reply.is_status(200).has_json(&json!({"<more>": true, "consul": [], "cat-none": []}));
    if target.since(1, 10) {
        reply.has_headers(QUERY);
    }
    let mut tags: Vec<Value> = reply.json()["cat"].as_array().unwrap().clone();
    tags.sort_by_key(ToString::to_string);
    assert_eq!(tags, ["a", "b", "c"]);
}

fn shape(target: &Target, service: Value) -> Value {
    let node = node(target);
    let mut shape = json!({
        "ID": "<uuid>", "Node": "conformance", "Address": "127.0.0.1", "Datacenter": "dc1",
        "TaggedAddresses": node["TaggedAddresses"], "NodeMeta": node["Meta"], "ServiceKind": "", "ServiceTags": [],
        "ServiceAddress": "", "ServiceWeights": {"Passing": 1, "Warning": 1}, "ServiceMeta": {}, "ServicePort": 0,
        "ServicePorts": null, "ServiceSocketPath": "", "ServiceEnableTagOverride": false,
        "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "ServiceConnect": {}, "ServiceLocality": null,
        "CreateIndex": "<index>", "ModifyIndex": "<index>",
    });
    if !target.since(1, 22) {
        for key in ["ServicePorts", "ServiceSocketPath", "ServiceLocality"] {
            shape.as_object_mut().unwrap().remove(key);
        }
        shape["ServiceProxy"] = json!("<any>");
        shape["<more>"] = json!(true);
    }
    super::merge(&mut shape, service);
    shape
}

async fn a_service_has_this_shape(target: Target) {
    target
        .register(json!({
            "ID": "cat-full-1", "Name": "cat-full", "Tags": ["a"], "Meta": {"k": "v"}, "Address": "10.0.0.7",
            "Port": 9, "Weights": {"Passing": 10, "Warning": 1}, "EnableTagOverride": true,
        }))
        .await;
    let at = json!({"Address": "10.0.0.7", "Port": 9});
    let expected = shape(
        &target,
        json!({
            "ServiceID": "cat-full-1", "ServiceName": "cat-full", "ServiceTags": ["a"], "ServiceMeta": {"k": "v"},
            "ServiceAddress": "10.0.0.7", "ServicePort": 9, "ServiceWeights": {"Passing": 10, "Warning": 1},
            "ServiceTaggedAddresses": {"lan_ipv4": at, "wan_ipv4": at}, "ServiceEnableTagOverride": true,
        }),
    );
    let reply = target.get("/v1/catalog/service/cat-full").await;
    reply.is_status(200).has_json(&json!([expected]));
    assert_eq!(reply.json()[0]["ModifyIndex"], reply.index());
    target.get("/v1/catalog/service/cat-full?tag=A").await.has_json(&json!([expected]));
    target.get("/v1/catalog/service/cat-full?tag=b").await.has_json(&json!([]));
}

async fn an_empty_service_has_this_shape(target: Target) {
    target.register(json!({"Name": "cat-empty"})).await;
    let expected = shape(&target, json!({"ServiceID": "cat-empty", "ServiceName": "cat-empty"}));
    target.get("/v1/catalog/service/cat-empty").await.has_json(&json!([expected]));
}

async fn no_instance_is_an_empty_list(target: Target) {
    target.get("/v1/catalog/service/cat-unknown").await.is_status(200).has_text("[]");
}

async fn nodes_have_this_shape(target: Target) {
    let reply = target.get("/v1/catalog/nodes").await;
    reply.is_status(200).has_json(&json!([node(&target)]));
}

async fn a_node_has_its_services(target: Target) {
    target.register(json!({"Name": "cat-node", "Tags": ["t"]})).await;
    let reply = target.get("/v1/catalog/node/conformance").await;
    reply.is_status(200);
    let body = reply.json();
    crate::pattern::compare(&node(&target), &body["Node"]).unwrap();
    let expected =
        json!({"<more>": true, "ID": "cat-node", "Service": "cat-node", "Tags": ["t"], "Meta": null});
    crate::pattern::compare(&expected, &body["Services"]["cat-node"]).unwrap();
    assert!(body["Services"]["consul"].is_object());
}

async fn an_unknown_node_is_null(target: Target) {
    let reply = target.get("/v1/catalog/node/unknown").await;
    reply.is_status(200).has_text("null");
}

async fn the_datacenters_are_listed(target: Target) {
    target.get("/v1/catalog/datacenters").await.is_status(200).has_json(&json!(["dc1"])).has_headers(PLAIN);
}

async fn the_leader_and_the_peers_are_returned(target: Target) {
    let leader = target.get("/v1/status/leader").await;
    leader.is_status(200).has_headers(PLAIN);
    let address = leader.json().as_str().unwrap().to_owned();
    assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{address}");
    target.get("/v1/status/peers").await.is_status(200).has_json(&json!([address])).has_headers(PLAIN);
}
