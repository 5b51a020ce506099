//! Blocking queries on health and the catalog.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{Case, QUERY, cases};
use crate::agents::Target;
use crate::http::Response;

const SOON: Duration = Duration::from_secs(3);

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_read_with_an_index_is_streamed.since((1, 10, 0), "the streaming backend was not the default"),
        near_is_not_streamed.since((1, 10, 0), "the streaming backend was not the default"),
        an_old_index_returns_immediately,
        a_query_without_news_returns_when_the_time_is_up,
        an_index_from_the_future_waits_and_returns_the_present,
        a_registration_wakes,
        a_deregistration_wakes,
        a_checks_new_status_wakes,
        output_alone_does_not_wake,
        a_changed_definition_wakes,
        a_filtered_change_wakes_too,
        another_service_does_not_wake,
        a_missing_service_is_not_woken_by_another_that_disappears
            .alone()
            .since((1, 10, 0), "the blocking backend wakes for it"),
        a_vanished_service_blocks_whatever_vanished_after_it
            .alone()
            .since((1, 10, 0), "the blocking backend goes by the last that vanished"),
        a_missing_service_of_the_blocking_backend_may_be_woken_by_any_that_disappears.alone(),
        a_vanished_service_keeps_an_index_above_the_last_one.alone(),
        the_list_of_services_wakes_and_keeps_quiet_about_checks.alone(),
        the_checks_of_a_service_wake,
        the_list_of_nodes_moves_with_services_but_is_not_woken
            .alone()
            .since((1, 22, 0), "the index of the nodes did not move with their services"),
        a_check_moves_the_index_of_its_service_in_the_catalog_but_does_not_wake,
        a_wait_of_zero_is_the_default,
    ]
}

/// Makes a blocking read with the index of `before`, and `change` a moment
/// later.
async fn woken_by(
    target: &Target,
    path: &str,
    before: &Response,
    change: impl Future<Output = ()>,
) -> Response {
    let separator = if path.contains('?') { '&' } else { '?' };
    let waiting = target.get(format!("{path}{separator}index={}&wait=20s", before.index()));
    let later = async {
        sleep(Duration::from_millis(200)).await;
        change.await;
    };
    let (reply, ()) = tokio::join!(waiting, later);
    assert!(reply.took >= Duration::from_millis(150), "{path} did not wait: {:?}", reply.took);
    assert!(reply.took < SOON, "{path} was not woken: {:?}", reply.took);
    assert!(reply.index() > before.index(), "{path}: {} after {}", reply.index(), before.index());
    reply
}

/// Makes a blocking read with the index of `before`, and `change`, which must
/// not wake it.
async fn not_woken_by(
    target: &Target,
    path: &str,
    before: &Response,
    change: impl Future<Output = ()>,
) -> Response {
    let separator = if path.contains('?') { '&' } else { '?' };
    let waiting = target.get(format!("{path}{separator}index={}&wait=900ms", before.index()));
    let later = async {
        sleep(Duration::from_millis(200)).await;
        change.await;
    };
    let (reply, ()) = tokio::join!(waiting, later);
    assert!(reply.took >= Duration::from_millis(890), "{path} was woken: {:?} {}", reply.took, reply.text());
    reply
}

async fn a_read_with_an_index_is_streamed(target: Target) {
    target.register(json!({"Name": "block-stream", "Port": 5, "Connect": {"Native": true}})).await;
    for path in [
        "/v1/health/service/block-stream?index=1",
        "/v1/health/service/block-stream?index=1&passing&stale",
        "/v1/health/connect/block-stream?index=1",
        "/v1/health/service/block-unknown?index=1",
    ] {
        let reply = target.get(path).await;
        reply.is_status(200).has_headers(QUERY);
        reply.has_header("x-consul-query-backend", "streaming").has_header("x-consul-knownleader", "false");
        reply.has_header("x-consul-lastcontact", "0");
    }
    let plain = target.get("/v1/health/service/block-stream?index=0").await;
    assert_eq!(plain.backend(), "blocking-query");
}

async fn near_is_not_streamed(target: Target) {
    target.register(json!({"Name": "block-near"})).await;
    for option in ["near=_agent", "merge-central-config"] {
        let reply = target.get(format!("/v1/health/service/block-near?index=1&{option}")).await;
        reply
            .has_header("x-consul-query-backend", "blocking-query")
            .has_header("x-consul-knownleader", "true");
    }
}

async fn an_old_index_returns_immediately(target: Target) {
    target.register(json!({"Name": "block-old", "Check": {"TTL": "10m"}})).await;
    for path in ["health/service/block-old", "catalog/service/block-old", "health/checks/block-old"] {
        let before = target.get(format!("/v1/{path}")).await;
        let reply = target.get(format!("/v1/{path}?index={}&wait=20s", before.index() - 1)).await;
        assert!(reply.took < SOON, "{path}: {:?}", reply.took);
    }
}

async fn a_query_without_news_returns_when_the_time_is_up(target: Target) {
    target.register(json!({"Name": "block-quiet"})).await;
    for path in ["/v1/health/service/block-quiet", "/v1/catalog/service/block-quiet"] {
        let before = target.get(path).await;
        let reply = target.get(format!("{path}?index={}&wait=1s", before.index())).await;
        reply.is_status(200);
        assert_eq!(reply.index(), before.index(), "{path}");
        assert_eq!(reply.text(), before.text(), "{path}");
        assert!(reply.took >= Duration::from_millis(990), "{path}: {:?}", reply.took);
        assert!(reply.took < Duration::from_secs(2), "{path}: {:?}", reply.took);
    }
}

async fn an_index_from_the_future_waits_and_returns_the_present(target: Target) {
    target.register(json!({"Name": "block-future"})).await;
    let before = target.get("/v1/health/service/block-future").await;
    let future = before.index() + 1_000_000;
    let path = format!("/v1/health/service/block-future?index={future}&wait=1s");
    let waiting = target.get(&path);
    let change = async {
        sleep(Duration::from_millis(200)).await;
        target.register(json!({"Name": "block-future", "Port": 1})).await;
    };
    let (reply, ()) = tokio::join!(waiting, change);
    assert!(reply.took >= Duration::from_millis(990), "{:?}", reply.took);
    assert!(reply.index() < future && reply.index() > before.index(), "{}", reply.index());
    assert_eq!(reply.json()[0]["Service"]["Port"], 1);
}

async fn a_registration_wakes(target: Target) {
    for (name, path) in
        [("block-new", "/v1/health/service/block-new"), ("block-new-2", "/v1/catalog/service/block-new-2")]
    {
        let before = target.get(path).await;
        let woken = loop {
            // A blocking read of a missing service may be woken by other cases' services; then it is
            // repeated.
            let woken = target.get(format!("{path}?index={}&wait=300ms", before.index())).await;
            if woken.text() != "[]" {
                break woken;
            }
            target.register(json!({"Name": name})).await;
        };
        assert_eq!(woken.json().as_array().unwrap().len(), 1);
        let woken = woken_by(&target, path, &woken, async {
            target.register(json!({"Name": name, "ID": format!("{name}-b")})).await;
        })
        .await;
        assert_eq!(woken.json().as_array().unwrap().len(), 2);
    }
}

async fn a_deregistration_wakes(target: Target) {
    for id in ["block-gone-1", "block-gone-2"] {
        target.register(json!({"Name": "block-gone", "ID": id})).await;
    }
    let path = "/v1/health/service/block-gone";
    let before = target.get(path).await;
    let first = woken_by(&target, path, &before, target.deregister("block-gone-1")).await;
    assert_eq!(first.json().as_array().unwrap().len(), 1);
    let second = woken_by(&target, path, &first, target.deregister("block-gone-2")).await;
    second.is_status(200).has_text("[]");
}

async fn a_checks_new_status_wakes(target: Target) {
    let definition = json!({"CheckID": "block-status", "TTL": "10m", "Status": "passing"});
    target.register(json!({"Name": "block-status", "Check": definition})).await;
    for path in ["/v1/health/service/block-status", "/v1/health/service/block-status?near=_agent"] {
        let before = target.get(path).await;
        let warned = woken_by(&target, path, &before, async {
            target.put("/v1/agent/check/warn/block-status", "").await.is_done();
        })
        .await;
        assert_eq!(warned.json()[0]["Checks"][1]["Status"], "warning");
        let passed = woken_by(&target, path, &warned, async {
            target.put("/v1/agent/check/pass/block-status", "").await.is_done();
        })
        .await;
        assert_eq!(passed.json()[0]["Checks"][1]["Status"], "passing");
    }
}

async fn output_alone_does_not_wake(target: Target) {
    let definition = json!({"CheckID": "block-output", "TTL": "10m", "Status": "passing"});
    target.register(json!({"Name": "block-output", "Check": definition})).await;
    let path = "/v1/health/service/block-output";
    let before = target.get(path).await;
    let after = not_woken_by(&target, path, &before, async {
        target.put("/v1/agent/check/pass/block-output?note=other", "").await.is_done();
    })
    .await;
    assert_eq!(after.text(), before.text());
}

async fn a_changed_definition_wakes(target: Target) {
    target.register(json!({"Name": "block-change", "Tags": ["v1"]})).await;
    let path = "/v1/health/service/block-change";
    let before = target.get(path).await;
    let after =
        woken_by(&target, path, &before, target.register(json!({"Name": "block-change", "Tags": ["v2"]})))
            .await;
    assert_eq!(after.json()[0]["Service"]["Tags"], json!(["v2"]));
}

async fn a_filtered_change_wakes_too(target: Target) {
    let definition = json!({"CheckID": "block-hidden", "TTL": "10m", "Status": "critical"});
    target.register(json!({"Name": "block-hidden", "Check": definition})).await;
    let path = "/v1/health/service/block-hidden?passing";
    let before = target.get(path).await;
    before.has_text("[]");
    let after = woken_by(&target, path, &before, async {
        target.put("/v1/agent/check/warn/block-hidden", "").await.is_done();
    })
    .await;
    after.has_text("[]");
}

async fn another_service_does_not_wake(target: Target) {
    target.register(json!({"Name": "block-mine"})).await;
    let path = "/v1/health/service/block-mine";
    let before = target.get(path).await;
    not_woken_by(&target, path, &before, async {
        target.register(json!({"Name": "block-other"})).await;
        target.deregister("block-other").await;
    })
    .await;
}

async fn a_missing_service_is_not_woken_by_another_that_disappears(target: Target) {
    target.register(json!({"Name": "block-miss-other"})).await;
    let path = "/v1/health/service/block-miss";
    let before = target.get(path).await;
    not_woken_by(&target, path, &before, target.deregister("block-miss-other")).await;
}

async fn a_vanished_service_blocks_whatever_vanished_after_it(target: Target) {
    for name in ["block-first", "block-second"] {
        target.register(json!({"Name": name})).await;
    }
    let path = "/v1/health/service/block-first";
    let there = target.get(path).await;
    let gone = woken_by(&target, path, &there, target.deregister("block-first")).await;
    target.deregister("block-second").await;
    not_woken_by(&target, path, &gone, async {}).await.has_text("[]");
}

async fn a_missing_service_of_the_blocking_backend_may_be_woken_by_any_that_disappears(target: Target) {
    target.register(json!({"Name": "block-extinct"})).await;
    let path = "/v1/catalog/service/block-none";
    let before = target.get(path).await.index();
    // A real agent may wake or not, depending on where the two names lie in its tree; the index changes in
    // any case.
    let waiting = target.get(format!("{path}?index={before}&wait=1s"));
    let (reply, ()) = tokio::join!(waiting, target.deregister("block-extinct"));
    reply.is_status(200).has_text("[]");
    assert!(target.get(path).await.index() > before);
}

async fn a_vanished_service_keeps_an_index_above_the_last_one(target: Target) {
    target.register(json!({"Name": "block-vanish"})).await;
    let path = "/v1/health/service/block-vanish";
    let before = target.get(path).await;
    target.deregister("block-vanish").await;
    let gone = target.get(path).await;
    assert!(gone.index() > before.index());
    // Watching on, it wakes when the service comes back.
    let back = woken_by(&target, path, &gone, target.register(json!({"Name": "block-vanish"}))).await;
    assert_eq!(back.json().as_array().unwrap().len(), 1);
}

async fn the_list_of_services_wakes_and_keeps_quiet_about_checks(target: Target) {
    let path = "/v1/catalog/services";
    let before = target.get(path).await;
    let definition = json!({"Name": "block-listed", "Check": {"CheckID": "block-listed", "TTL": "10m"}});
    let listed = woken_by(&target, path, &before, target.register(definition)).await;
    listed.has_json(&json!({"<more>": true, "block-listed": []}));
    not_woken_by(&target, path, &listed, async {
        target.put("/v1/agent/check/pass/block-listed", "").await.is_done();
    })
    .await;
    let gone = woken_by(&target, path, &listed, target.deregister("block-listed")).await;
    assert_eq!(gone.json().get("block-listed"), None);
}

async fn the_checks_of_a_service_wake(target: Target) {
    target
        .register(json!({"Name": "block-checks", "Check": {"CheckID": "block-checks", "TTL": "10m"}}))
        .await;
    let mut seen = target.get("/v1/health/checks/block-checks").await;
    target.put("/v1/agent/check/pass/block-checks", "").await.is_done();
    // Other cases' checks wake it as well, so it is repeated until it shows
    // this one.
    while seen.json()[0]["Status"] != "passing" {
        let path = format!("/v1/health/checks/block-checks?index={}&wait=20s", seen.index());
        let next = target.get(path).await;
        assert!(next.took < SOON && next.index() > seen.index());
        seen = next;
    }
}

async fn the_list_of_nodes_moves_with_services_but_is_not_woken(target: Target) {
    let path = "/v1/catalog/nodes";
    let before = target.get(path).await;
    not_woken_by(&target, path, &before, target.register(json!({"Name": "block-nodes"}))).await;
    let after = target.get(path).await;
    assert!(after.index() > before.index());
    assert_eq!(after.text(), before.text());
}

async fn a_check_moves_the_index_of_its_service_in_the_catalog_but_does_not_wake(target: Target) {
    target.register(json!({"Name": "block-cat", "Check": {"CheckID": "block-cat", "TTL": "10m"}})).await;
    let path = "/v1/catalog/service/block-cat";
    let before = target.get(path).await;
    not_woken_by(&target, path, &before, async {
        target.put("/v1/agent/check/pass/block-cat", "").await.is_done();
    })
    .await;
    assert!(target.get(path).await.index() > before.index());
}

async fn a_wait_of_zero_is_the_default(target: Target) {
    target.register(json!({"Name": "block-zero"})).await;
    let path = "/v1/health/service/block-zero?wait=0s";
    let before = target.get(path).await;
    woken_by(&target, path, &before, target.register(json!({"Name": "block-zero", "Port": 1}))).await;
}
