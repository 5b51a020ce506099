//! Taking a service or the node out of traffic by hand.

use serde_json::json;

use super::{Case, cases, check};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        maintenance_is_a_critical_check,
        maintenance_without_a_reason_says_so,
        setting_maintenance_again_changes_nothing,
        lifting_maintenance_is_always_fine,
        bad_maintenance_requests_are_refused,
        maintenance_of_an_unknown_service_is_404.since((1, 22, 0), "older ones word it differently"),
        maintenance_of_the_node_touches_every_service.alone(),
    ]
}

async fn maintenance_is_a_critical_check(target: Target) {
    target.register(json!({"Name": "maint", "ID": "maint-1", "Tags": ["t"]})).await;
    let before = target.get("/v1/health/service/maint").await;
    target
        .put("/v1/agent/service/maintenance/maint-1?enable=true&reason=for%20a%20while", "")
        .await
        .is_done();
    let shape = json!({
        "CheckID": "_service_maintenance:maint-1", "Name": "Service Maintenance Mode", "Status": "critical",
        "Notes": "for a while", "ServiceID": "maint-1", "ServiceName": "maint", "ServiceTags": ["t"],
        "Type": "maintenance",
    });
    let local = target.get("/v1/agent/checks").await.json();
    crate::pattern::compare(&check(&target, false, shape.clone()), &local["_service_maintenance:maint-1"])
        .unwrap();
    let seen = target.get("/v1/health/service/maint").await;
    assert!(seen.index() > before.index());
    seen.has_json(&json!([{
        "Node": "<any>", "Service": "<any>",
        "Checks": [super::serf_health(&target), check(&target, true, shape)],
    }]));
    target.get("/v1/health/service/maint?passing").await.has_json(&json!([]));
    target.put("/v1/agent/service/maintenance/maint-1?enable=false", "").await.is_done();
    let lifted = target.get("/v1/health/service/maint?passing").await;
    assert_eq!(lifted.json().as_array().unwrap().len(), 1);
    assert!(lifted.index() > seen.index());
}

async fn maintenance_without_a_reason_says_so(target: Target) {
    target.register(json!({"Name": "maint-why"})).await;
    target.put("/v1/agent/service/maintenance/maint-why?enable=true", "").await.is_done();
    let notes = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";
    let checks = target.get("/v1/agent/checks").await.json();
    assert_eq!(checks["_service_maintenance:maint-why"]["Notes"], notes);
}

async fn setting_maintenance_again_changes_nothing(target: Target) {
    target.register(json!({"Name": "maint-twice"})).await;
    for reason in ["first", "second"] {
        let path = format!("/v1/agent/service/maintenance/maint-twice?enable=true&reason={reason}");
        target.put(path, "").await.is_done();
    }
    let checks = target.get("/v1/agent/checks").await.json();
    assert_eq!(checks["_service_maintenance:maint-twice"]["Notes"], "first");
}

async fn lifting_maintenance_is_always_fine(target: Target) {
    target.register(json!({"Name": "maint-off"})).await;
    target.put("/v1/agent/service/maintenance/maint-off?enable=false", "").await.is_done();
    for truth in ["1", "t", "TRUE", "True"] {
        target.put(format!("/v1/agent/service/maintenance/maint-off?enable={truth}"), "").await.is_done();
    }
    target.put("/v1/agent/service/maintenance/maint-off?enable=0", "").await.is_done();
    let checks = target.get("/v1/agent/checks").await.json();
    assert_eq!(checks.get("_service_maintenance:maint-off"), None);
}

async fn bad_maintenance_requests_are_refused(target: Target) {
    target.register(json!({"Name": "maint-bad"})).await;
    for (path, text) in [
        ("/v1/agent/service/maintenance/maint-bad", "Missing value for enable"),
        ("/v1/agent/service/maintenance/?enable=true", "Missing service ID"),
        ("/v1/agent/maintenance", "Missing value for enable"),
    ] {
        target.put(path, "").await.is_status(400).has_text(text);
    }
    for path in ["/v1/agent/service/maintenance/maint-bad", "/v1/agent/maintenance"] {
        let text = r#"Invalid value for enable: "foo""#;
        target.put(format!("{path}?enable=foo"), "").await.is_status(400).has_text(text);
    }
}

async fn maintenance_of_an_unknown_service_is_404(target: Target) {
    let text = r#"Unknown service ID "unknown". Ensure that the service ID is passed, not the service name."#;
    target.put("/v1/agent/service/maintenance/unknown?enable=true", "").await.is_error(404, text);
}

async fn maintenance_of_the_node_touches_every_service(target: Target) {
    target.register(json!({"Name": "maint-node"})).await;
    let before = target.get("/v1/health/service/maint-node").await;
    target.put("/v1/agent/maintenance?enable=true", "").await.is_done();
    let shape = json!({
        "CheckID": "_node_maintenance", "Name": "Node Maintenance Mode", "Status": "critical", "Type": "maintenance",
        "Notes": "Maintenance mode is enabled for this node, but no reason was provided. This is a default message.",
    });
    let seen = target.get("/v1/health/service/maint-node").await;
    assert!(seen.index() > before.index());
    let checks = json!([check(&target, true, shape), super::serf_health(&target)]);
    seen.has_json(&json!([{"Node": "<any>", "Service": "<any>", "Checks": checks}]));
    let health = target.get("/v1/agent/health/service/name/maint-node").await;
    health.is_status(503).has_header("x-consul-reason", "maintenance");
    target.put("/v1/agent/maintenance?enable=false", "").await.is_done();
    let lifted = target.get("/v1/health/service/maint-node?passing").await;
    assert_eq!(lifted.json().as_array().unwrap().len(), 1);
    assert!(lifted.index() > seen.index());
}
