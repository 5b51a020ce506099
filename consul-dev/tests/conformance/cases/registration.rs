//! `PUT /v1/agent/service/register` and `deregister`.

use serde_json::{Value, json};

use super::{Case, cases};
use crate::agents::Target;

const REGISTER: &str = "/v1/agent/service/register";

pub(super) fn cases() -> Vec<Case> {
    cases![
        an_accepted_registration_is_an_empty_200,
        a_body_that_is_no_json_is_refused_in_the_decoders_words,
        an_unknown_field_is_refused,
        a_value_of_the_wrong_type_is_refused.since((1, 22, 0), "older decoders name other types"),
        an_invalid_service_is_refused.since((1, 22, 0), "older agents check less"),
        an_invalid_check_is_refused.since((1, 22, 0), "older agents check less"),
        invalid_meta_is_refused,
        scripts_are_refused,
        the_field_names_may_have_any_case,
        the_id_is_the_name_unless_given,
        checks_get_ids_and_names,
        an_ip_address_becomes_tagged_addresses,
        registering_again_keeps_a_checks_status,
        registering_again_without_change_moves_no_index,
        replacing_checks_removes_the_others_and_maintenance,
        other_checks_stay_without_replacing,
        a_check_id_moves_to_the_service_that_registers_it,
        weights_default_to_one_and_an_absent_warning_to_zero,
        deregistering_what_is_not_there_is_404.since((1, 22, 0), "older ones word it differently"),
        deregistering_takes_the_checks_along,
    ]
}

async fn refused(target: &Target, body: impl Into<Vec<u8>>, text: &str) {
    target.put(REGISTER, body).await.is_error(400, text);
}

async fn an_accepted_registration_is_an_empty_200(target: Target) {
    let reply = target.put(REGISTER, r#"{"Name": "reg-accepted"}"#).await;
    reply.is_done();
    if target.since(1, 22) {
        reply.has_headers(super::PLAIN).has_header("content-type", "application/json; charset=utf-8");
    }
}

async fn a_body_that_is_no_json_is_refused_in_the_decoders_words(target: Target) {
    for (body, text) in [
        ("", "EOF"),
        ("{", "unexpected EOF"),
        ("{bad", "invalid character 'b' looking for beginning of object key string"),
        ("bad", "invalid character 'b' looking for beginning of value"),
        (r#"{"Name" 1}"#, "invalid character '1' after object key"),
        (r#"{"Name":"a" 2}"#, "invalid character '2' after object key:value pair"),
        (r#"{"Tags":["a" 2]}"#, "invalid character '2' after array element"),
        ("{\"Name\":\"a\nb\"}", r"invalid character '\n' in string literal"),
        (r#"{"Name":"\x"}"#, "invalid character 'x' in string escape code"),
        (r#"{"Port":-}"#, "invalid character '}' in numeric literal"),
        (r#"{"Port":nul}"#, "invalid character '}' in literal null (expecting 'l')"),
    ] {
        refused(&target, body, &format!("Request decode failed: {text}")).await;
    }
    refused(&target, "null", "Missing service name").await;
    // The rest after the first value is ignored.
    target.put(REGISTER, r#"{"Name": "reg-trailing"} trailing"#).await.is_done();
}

async fn an_unknown_field_is_refused(target: Target) {
    for body in [
        json!({"Name": "reg-unknown", "Bogus": 1}),
        json!({"Name": "reg-unknown", "Check": {"Bogus": 1}}),
        json!({"Name": "reg-unknown", "Checks": [{"TTL": "10s"}, {"Bogus": 1}]}),
        json!({"Name": "reg-unknown", "Weights": {"Bogus": 1}}),
    ] {
        refused(&target, body.to_string(), r#"Request decode failed: json: unknown field "Bogus""#).await;
    }
    let with_id = json!({"Name": "reg-unknown", "Check": {"ID": "x", "TTL": "10s"}});
    refused(&target, with_id.to_string(), r#"Request decode failed: json: unknown field "ID""#).await;
}

async fn a_value_of_the_wrong_type_is_refused(target: Target) {
    for (member, got, field, expected) in [
        (r#""Port":"x""#, "string", ".Alias.Port", "int"),
        (r#""Port":1.5"#, "number 1.5", ".Alias.Port", "int"),
        (r#""Port":99999999999999999999"#, "number 99999999999999999999", ".Alias.Port", "int"),
        (r#""Name":1"#, "number", ".Alias.Name", "string"),
        (r#""Tags":"x""#, "string", ".Alias.Tags", "[]string"),
        (r#""Tags":[1]"#, "number", ".Alias.Tags", "string"),
        (r#""Meta":[]"#, "array", ".Alias.Meta", "map[string]string"),
        (r#""Meta":{"a":1}"#, "number", ".Alias.Meta", "string"),
        (r#""EnableTagOverride":"x""#, "string", ".Alias.EnableTagOverride", "bool"),
        (r#""Weights":3"#, "number", ".Alias.Weights", "structs.Weights"),
        (r#""Weights":{"Passing":"x"}"#, "string", "Weights.Alias.Weights.Passing", "int"),
        (r#""Locality":3"#, "number", ".Alias.Locality", "structs.Locality"),
        (r#""Connect":{"Native":3}"#, "number", ".Alias.Connect.Alias.Native", "bool"),
        (r#""TaggedAddresses":{"lan":3}"#, "number", ".Alias.TaggedAddresses", "structs.ServiceAddress"),
        (r#""Ports":[{"Name":"a","Port":"x"}]"#, "string", "ServicePort.Alias.Ports.Port", "int"),
        (r#""Checks":{}"#, "object", ".Alias.Checks", "structs.CheckTypes"),
        (r#""Check":{"Name":1}"#, "number", ".Alias.Check.Alias.Name", "string"),
        (r#""Check":{"Header":{"a":"b"}}"#, "string", ".Alias.Check.Alias.Header", "[]string"),
    ] {
        let text = format!(
            "Request decode failed: json: cannot unmarshal {got} into Go struct field {field} of type {expected}"
        );
        refused(&target, format!(r#"{{"Name":"reg-typed",{member}}}"#), &text).await;
    }
}

async fn an_invalid_service_is_refused(target: Target) {
    let one = |fault: &str| format!("Validation failed: 1 error occurred:\n\t* {fault}\n\n");
    let ports = |ports: Value| json!({"Ports": ports});
    for (members, text) in [
        (json!({"Name": ""}), "Missing service name".to_owned()),
        (json!({"Address": "0.0.0.0"}), "Invalid service address".to_owned()),
        (json!({"Address": "::"}), "Invalid service address".to_owned()),
        (json!({"Weights": {"Passing": 0}}), "Invalid Weights: Passing must be greater than 0".to_owned()),
        (json!({"Weights": {"Warning": 1}}), "Invalid Weights: Passing must be greater than 0".to_owned()),
        (
            json!({"Weights": {"Passing": 1, "Warning": -1}}),
            "Invalid Weights: Warning must be greater or equal than 0".to_owned(),
        ),
        (
            json!({"Weights": {"Passing": 65536}}),
            "Invalid Weights: DNS Weight must be between 0 and 65535".to_owned(),
        ),
        (json!({"Locality": {"Zone": "z"}}), one("zone cannot be set without region")),
        (ports(json!([{"Name": "a", "Port": 1}])), one("One of the Ports must be marked as Default")),
        (ports(json!([{"Name": " ", "Port": 1}])), one("Ports.Name cannot be empty")),
        (ports(json!([{"Name": "a"}])), one("Ports.Port must be greater than zero")),
        (
            ports(json!([{"Name": "a", "Port": 1, "Default": true}, {"Name": "a", "Port": 2}])),
            one(r#"Ports.Name "a" has to be unique"#),
        ),
        (
            json!({"Port": 1, "Ports": [{"Name": "a", "Port": 1, "Default": true}]}),
            one("Cannot set both Port and Ports"),
        ),
        (
            json!({"Connect": {"Native": true}}),
            one("Port or SocketPath must be set for a Connect native service."),
        ),
    ] {
        let mut body = json!({"Name": "reg-invalid"});
        super::merge(&mut body, members);
        refused(&target, body.to_string(), &text).await;
    }
    let two = "Validation failed: 2 errors occurred:\n\t* zone cannot be set without region\n\t* Cannot set both Port and Ports\n\n";
    let body = json!({
        "Name": "reg-invalid", "Port": 1, "Locality": {"Zone": "z"},
        "Ports": [{"Name": "a", "Port": 1, "Default": true}],
    });
    refused(&target, body.to_string(), two).await;
}

async fn an_invalid_check_is_refused(target: Target) {
    let interval =
        "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks";
    for (check, text) in [
        (json!({"Name": "x"}), "Invalid check: TTL must be > 0 for TTL checks"),
        (json!({"TTL": "0s", "Notes": "x"}), "Invalid check: TTL must be > 0 for TTL checks"),
        (
            json!({"TTL": "10s", "Interval": "10s"}),
            "Invalid check: Interval and TTL cannot both be specified",
        ),
        (json!({"GRPC": "127.0.0.1:1"}), interval),
        (json!({"TCP": "127.0.0.1:1"}), interval),
        (json!({"HTTP": "http://127.0.0.1:1"}), interval),
        (
            json!({"TTL": "10s", "FailuresBeforeWarning": 2, "FailuresBeforeCritical": 1}),
            "Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
        ),
        (json!({"TTL": "10s", "OutputMaxSize": -1}), "Invalid check: MaxOutputMaxSize must be positive"),
        (
            json!({"TTL": "10s", "Status": "maintenance"}),
            "Status for checks must 'passing', 'warning', 'critical'",
        ),
        (json!({"TTL": "10"}), r#"Request decode failed: time: missing unit in duration "10""#),
        (json!({"TTL": "x"}), r#"Request decode failed: time: invalid duration "x""#),
        (json!({"TTL": "1y"}), r#"Request decode failed: time: unknown unit "y" in duration "1y""#),
    ] {
        let body = json!({"Name": "reg-bad-check", "Checks": [check]});
        refused(&target, body.to_string(), text).await;
    }
    // An empty `Check` is no check, an empty one among `Checks` is wrong.
    target.put(REGISTER, json!({"Name": "reg-empty-check", "Check": {}}).to_string()).await.is_done();
    let empty = json!({"Name": "reg-empty-check", "Checks": [{}]});
    refused(&target, empty.to_string(), "Invalid check: TTL must be > 0 for TTL checks").await;
}

async fn invalid_meta_is_refused(target: Target) {
    let long_key = "k".repeat(129);
    let long_value = "v".repeat(513);
    for (key, value, why) in [
        (long_key.as_str(), "v", "Key is too long (limit: 128 characters)"),
        ("k", long_value.as_str(), "Value is too long (limit: 512 characters)"),
        ("", "v", "Key cannot be blank"),
        ("a.b", "v", "Key contains invalid characters"),
        ("consul-x", "v", "Key prefix 'consul-' is reserved for internal use"),
    ] {
        let body = json!({"Name": "reg-meta", "Meta": {key: value}});
        let text = format!("Invalid Service Meta: Couldn't load metadata pair ('{key}', '{value}'): {why}");
        refused(&target, body.to_string(), &text).await;
    }
    let pairs: serde_json::Map<String, Value> = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect();
    let body = json!({"Name": "reg-meta", "Meta": pairs});
    let text = "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs";
    refused(&target, body.to_string(), text).await;
}

async fn scripts_are_refused(target: Target) {
    let body = json!({"Name": "reg-script", "Check": {"Args": ["true"], "Interval": "10s"}});
    let text = "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true";
    target.put(REGISTER, body.to_string()).await.is_error(500, text);
    target.get("/v1/agent/service/reg-script").await.is_status(404);
}

async fn the_field_names_may_have_any_case(target: Target) {
    let body = r#"{"name":"reg-case","TAGS":["a"],"enable_tag_override":true,"check":{"ttl":"10s","deregister_critical_service_after":"5m"}}"#;
    target.put(REGISTER, body).await.is_done();
    let expected = json!({"<more>": true, "Tags": ["a"], "EnableTagOverride": true});
    target.get("/v1/agent/service/reg-case").await.has_json(&expected);
}

async fn the_id_is_the_name_unless_given(target: Target) {
    target.register(json!({"Name": "reg-named"})).await;
    target.register(json!({"Name": "reg-named", "ID": "reg-named-2"})).await;
    let reply = target.get("/v1/health/service/reg-named").await.json();
    let ids: Vec<&Value> =
        reply.as_array().unwrap().iter().map(|instance| &instance["Service"]["ID"]).collect();
    assert_eq!(ids, ["reg-named", "reg-named-2"]);
}

async fn checks_get_ids_and_names(target: Target) {
    target.register(json!({"Name": "reg-ids", "Check": {"TTL": "10m"}})).await;
    target
        .register(json!({
            "Name": "reg-ids", "ID": "reg-ids-2", "Tags": ["t"],
            "Check": {"TTL": "10m", "Name": "own name", "Notes": "n", "Status": "passing"},
            "Checks": [{"TTL": "10m"}, {"CheckID": "reg-own-id", "TTL": "10m", "Status": "warning"}],
        }))
        .await;
    let checks = target.get("/v1/agent/checks").await.json();
    let of = |id: &str, service: &str, tags: Value, name: &str, status: &str, notes: &str| {
        super::check(
            &target,
            false,
            json!({
                "CheckID": id, "Name": name, "Status": status, "Notes": notes, "ServiceID": service,
                "ServiceName": "reg-ids", "ServiceTags": tags, "Type": "ttl",
            }),
        )
    };
    let default_name = "Service 'reg-ids' check";
    for (id, expected) in [
        ("service:reg-ids", of("service:reg-ids", "reg-ids", json!([]), default_name, "critical", "")),
        (
            "service:reg-ids-2:1",
            of("service:reg-ids-2:1", "reg-ids-2", json!(["t"]), "own name", "passing", "n"),
        ),
        (
            "service:reg-ids-2:2",
            of("service:reg-ids-2:2", "reg-ids-2", json!(["t"]), default_name, "critical", ""),
        ),
        ("reg-own-id", of("reg-own-id", "reg-ids-2", json!(["t"]), default_name, "warning", "")),
    ] {
        crate::pattern::compare(&expected, &checks[id]).unwrap_or_else(|error| panic!("{id}: {error}"));
    }
}

async fn an_ip_address_becomes_tagged_addresses(target: Target) {
    let at = |address: &str| json!({"Address": address, "Port": 7});
    for (address, expected) in [
        ("10.1.2.3", json!({"lan_ipv4": at("10.1.2.3"), "wan_ipv4": at("10.1.2.3")})),
        ("fd00::1", json!({"lan_ipv6": at("fd00::1"), "wan_ipv6": at("fd00::1")})),
    ] {
        target.register(json!({"Name": "reg-tagged", "Address": address, "Port": 7})).await;
        let expected = json!({"<more>": true, "Address": address, "TaggedAddresses": expected});
        target.get("/v1/agent/service/reg-tagged").await.has_json(&expected);
    }
    let own = json!({"lan_ipv4": at("10.9.9.9")});
    target
        .register(json!({"Name": "reg-tagged", "Address": "10.1.2.3", "Port": 7, "TaggedAddresses": own}))
        .await;
    let expected =
        json!({"<more>": true, "TaggedAddresses": {"lan_ipv4": at("10.9.9.9"), "wan_ipv4": at("10.1.2.3")}});
    target.get("/v1/agent/service/reg-tagged").await.has_json(&expected);
    target.register(json!({"Name": "reg-tagged", "Address": "host.example", "Port": 7})).await;
    let reply = target.get("/v1/agent/service/reg-tagged").await.json();
    assert_eq!(reply.get("TaggedAddresses"), None);
}

async fn registering_again_keeps_a_checks_status(target: Target) {
    let definition = json!({"Name": "reg-again", "Check": {"TTL": "10m", "Status": "critical"}});
    target.register(definition.clone()).await;
    target.put("/v1/agent/check/pass/service:reg-again?note=fine", "").await.is_done();
    target.register(definition).await;
    let checks = target.get("/v1/agent/checks").await.json();
    assert_eq!(checks["service:reg-again"]["Status"], "passing");
    assert_eq!(checks["service:reg-again"]["Output"], "fine");
    let seen = target.get("/v1/health/checks/reg-again").await.json();
    assert_eq!(seen[0]["Status"], "passing");
}

async fn registering_again_without_change_moves_no_index(target: Target) {
    let definition =
        json!({"Name": "reg-same", "Port": 4, "Tags": ["a"], "Meta": {"k": "v"}, "Check": {"TTL": "10m"}});
    target.register(definition.clone()).await;
    let before = target.get("/v1/health/service/reg-same").await;
    target.register(definition).await;
    let after = target.get("/v1/health/service/reg-same").await;
    assert_eq!(before.index(), after.index());
    assert_eq!(before.text(), after.text());
    target.register(json!({"Name": "reg-same", "Port": 5, "Check": {"TTL": "10m"}})).await;
    let changed = target.get("/v1/health/service/reg-same").await;
    assert!(changed.index() > after.index());
    assert_eq!(changed.json()[0]["Service"]["Port"], 5);
    assert_eq!(changed.json()[0]["Service"]["CreateIndex"], before.json()[0]["Service"]["CreateIndex"]);
    assert_eq!(changed.json()[0]["Service"]["ModifyIndex"], changed.index());
}

async fn check_ids_of(target: &Target, service_id: &str) -> Vec<String> {
    let checks = target.get("/v1/agent/checks").await.json();
    let checks = checks.as_object().unwrap().iter();
    checks.filter(|(_, check)| check["ServiceID"] == service_id).map(|(id, _)| id.clone()).collect()
}

async fn replacing_checks_removes_the_others_and_maintenance(target: Target) {
    let definition = json!({"Name": "reg-replace", "Checks": [{"CheckID": "reg-replace-new", "TTL": "10m"}]});
    target
        .register(json!({"Name": "reg-replace", "Check": {"CheckID": "reg-replace-old", "TTL": "10m"}}))
        .await;
    target.put("/v1/agent/service/maintenance/reg-replace?enable=true", "").await.is_done();
    target.put(format!("{REGISTER}?replace-existing-checks=true"), definition.to_string()).await.is_done();
    assert_eq!(check_ids_of(&target, "reg-replace").await, ["reg-replace-new"]);
    let seen = target.get("/v1/health/checks/reg-replace").await.json();
    assert_eq!(seen.as_array().unwrap().len(), 1, "{seen}");
}

async fn other_checks_stay_without_replacing(target: Target) {
    target.register(json!({"Name": "reg-stay", "Check": {"CheckID": "reg-stay-old", "TTL": "10m"}})).await;
    target.put("/v1/agent/service/maintenance/reg-stay?enable=true", "").await.is_done();
    target.register(json!({"Name": "reg-stay", "Check": {"CheckID": "reg-stay-new", "TTL": "10m"}})).await;
    let expected = ["_service_maintenance:reg-stay", "reg-stay-new", "reg-stay-old"];
    let mut ids = check_ids_of(&target, "reg-stay").await;
    ids.sort();
    assert_eq!(ids, expected);
}

async fn a_check_id_moves_to_the_service_that_registers_it(target: Target) {
    let check = json!({"CheckID": "reg-moving", "TTL": "10m"});
    target.register(json!({"Name": "reg-move-a", "Check": check})).await;
    target.register(json!({"Name": "reg-move-b", "Check": check})).await;
    assert_eq!(check_ids_of(&target, "reg-move-a").await, Vec::<String>::new());
    assert_eq!(check_ids_of(&target, "reg-move-b").await, ["reg-moving"]);
    target.get("/v1/health/checks/reg-move-a").await.has_json(&json!([]));
    let moved = target.get("/v1/health/checks/reg-move-b").await.json();
    assert_eq!(moved[0]["CheckID"], "reg-moving");
}

async fn weights_default_to_one_and_an_absent_warning_to_zero(target: Target) {
    for (weights, passing, warning) in
        [(json!(null), 1, 1), (json!({"Passing": 5}), 5, 0), (json!({"Passing": 5, "Warning": 2}), 5, 2)]
    {
        target.register(json!({"Name": "reg-weights", "Weights": weights})).await;
        let expected = json!({"<more>": true, "Weights": {"Passing": passing, "Warning": warning}});
        target.get("/v1/agent/service/reg-weights").await.has_json(&expected);
    }
}

async fn deregistering_what_is_not_there_is_404(target: Target) {
    for id in ["reg-unknown", ""] {
        let text = format!(
            "Unknown service ID \"{id}\". Ensure that the service ID is passed, not the service name."
        );
        target.put(format!("/v1/agent/service/deregister/{id}"), "").await.is_error(404, &text);
    }
}

async fn deregistering_takes_the_checks_along(target: Target) {
    target.register(json!({"Name": "reg-gone", "Check": {"TTL": "10m"}})).await;
    target.deregister("reg-gone").await;
    assert_eq!(check_ids_of(&target, "reg-gone").await, Vec::<String>::new());
    target.get("/v1/health/service/reg-gone").await.has_json(&json!([]));
    target.get("/v1/health/checks/reg-gone").await.has_json(&json!([]));
    target.get("/v1/catalog/service/reg-gone").await.has_json(&json!([]));
    target.get("/v1/agent/service/reg-gone").await.is_status(404);
}
