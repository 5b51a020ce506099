//! The `filter` parameter.

use serde_json::json;

use super::{Case, cases};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_filter_keeps_what_it_is_true_of,
        a_filter_also_holds_for_the_agent_and_the_catalog,
        a_wrong_filter_is_500_and_says_where,
        an_unknown_field_is_500,
        an_impossible_operator_is_500,
        a_wrong_filter_of_the_catalog_comes_with_a_meaningless_index.since((1, 22, 0), "it came without"),
    ]
}

/// Encodes all special characters of a query.
fn encoded(filter: &str) -> String {
    filter.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn a_filter_keeps_what_it_is_true_of(target: Target) {
    target
        .register(json!({
            "Name": "filter", "ID": "filter-1", "Tags": ["a", "b"], "Port": 80, "Meta": {"version": "v2", "x-y": "1"},
            "Checks": [{"TTL": "10m", "Status": "passing"}, {"TTL": "10m", "Status": "warning"}],
        }))
        .await;
    let many = format!("{}Service.Port == 80", "Service.Port == 81 or ".repeat(62));
    for filter in [
        many.as_str(),
        r#"Service.Meta.version == "v2""#,
        "Service.Meta.version == v2",
        "Service.Meta.version==v2",
        r#"Service.Meta["x-y"] == 1"#,
        "Service.Meta.version != v1",
        "Service.Meta.none != v1",
        r#"Service.ID == "filter-1""#,
        "Service.Port == 80",
        r#"Service.Port == "80""#,
        "a in Service.Tags",
        "Service.Tags contains b",
        "c not in Service.Tags",
        "Service.Tags not contains c",
        "Service.Tags is not empty",
        "Service.Meta contains version",
        "Node.Node == conformance",
        "Service.EnableTagOverride == false",
        "Checks.Status == passing",
        "Checks.Status == warning",
        "Checks.Status != passing",
        "Checks is not empty",
        "Service.Weights.Passing == 1",
        "Service.Address == \"\"",
        "filt in Service.Service",
        "not Service.Port == 81",
        "Service.Port == 80 and a in Service.Tags",
        "Service.Port == 81 or a in Service.Tags",
        "Service.Port == 81 and Service.Port == 82 or Service.Port == 80",
        "not (Service.Port == 81 or Service.Port == 82)",
    ] {
        let keeps = async |filter: &str| {
            let reply = target.get(format!("/v1/health/service/filter?filter={}", encoded(filter))).await;
            reply.is_status(200);
            reply.json().as_array().unwrap().len() == 1
        };
        assert!(keeps(filter).await, "{filter}");
        assert!(!keeps(&format!("not ( {filter} )")).await, "not ( {filter} )");
    }
    for filter in ["Service.Meta.none == v1", "Service.Meta.none == \"\"", "Service.Meta.none contains a"] {
        let path = format!("/v1/health/service/filter?filter={}", encoded(filter));
        target.get(path).await.is_status(200).has_text("[]");
    }
}

async fn a_filter_also_holds_for_the_agent_and_the_catalog(target: Target) {
    let definition = json!({"Name": "filter-else", "Meta": {"only": "me"}, "Check": {"CheckID": "filter-else", "TTL": "10m"}});
    target.register(definition).await;
    for (path, filter) in [
        ("/v1/agent/services", "Meta.only == me"),
        ("/v1/agent/checks", "CheckID == \"filter-else\""),
        ("/v1/catalog/service/filter-else", "ServiceMeta.only == me"),
        ("/v1/health/checks/filter-else", "ServiceName == \"filter-else\""),
        ("/v1/health/state/any", "ServiceName == \"filter-else\""),
        ("/v1/catalog/nodes", "Node == conformance"),
    ] {
        let kept = target.get(format!("{path}?filter={}", encoded(filter))).await;
        kept.is_status(200);
        let body = kept.json();
        let count = body.as_array().map_or_else(|| body.as_object().unwrap().len(), Vec::len);
        assert_eq!(count, 1, "{path} {filter}");
    }
}

async fn a_wrong_filter_is_500_and_says_where(target: Target) {
    let after_selector = r#"expected: "!=", ".", "==", "[", [ \t\r\n] or [a-zA-Z0-9_]"#;
    for (filter, text) in [
        ("foo", format!("1:4 (3): no match found, {after_selector}")),
        ("Service.Meta.x-y == 3", format!("1:15 (14): no match found, {after_selector}")),
        (
            "Service.ID = a",
            r#"1:12 (11): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]"#.to_owned(),
        ),
        (
            "Service.ID ==",
            r#"1:14 (13): no match found, expected: "-", "0", "\"", "`", [ \t\r\n], [1-9] or [a-zA-Z]"#.to_owned(),
        ),
        ("Service.ID == a b", r#"1:17 (16): no match found, expected: "and", "or", [ \t\r\n] or EOF"#.to_owned()),
        ("Service.ID == a-b", r#"1:16 (15): no match found, expected: ".", "[", [ \t\r\n], [a-zA-Z0-9_] or EOF"#.to_owned()),
        ("Service.ID == a and", r"1:20 (19): no match found, expected: [ \t\r\n]".to_owned()),
        ("Service.Tags is", r"1:16 (15): no match found, expected: [ \t\r\n]".to_owned()),
        ("(Service.ID==a", r#"1:15 (14): rule "grouping": Unmatched parentheses"#.to_owned()),
        ("Service.ID == \"", r#"1:16 (15): rule "string": Unterminated string literal"#.to_owned()),
        ("Service.ID == 3a", r#"1:16 (15): rule "number": Invalid number literal"#.to_owned()),
    ] {
        let text = format!("Failed to create boolean expression evaluator: {text}");
        target.get(format!("/v1/health/service/filter?filter={}", encoded(filter))).await.is_error(500, &text);
    }
}

async fn an_unknown_field_is_500(target: Target) {
    for (path, filter, field) in [
        ("/v1/health/service/filter", "Service.Foo == a", "Service.Foo"),
        ("/v1/health/service/filter", "Foo.Bar == a", "Foo"),
        ("/v1/health/service/filter", "Service.Meta.x.y == a", "Service.Meta.x.y"),
        ("/v1/agent/services", "Foo == a", "Foo"),
    ] {
        let text =
            format!("Failed to create boolean expression evaluator: Selector \"{field}\" is not valid");
        target.get(format!("{path}?filter={}", encoded(filter))).await.is_error(500, &text);
    }
    // This endpoint detects the error only when it filters.
    let definition = json!({"Name": "filter-noticed", "Check": {"TTL": "10m"}});
    target.register(definition).await;
    let path = format!("/v1/agent/checks?filter={}", encoded("Foo == a"));
    target.get(path).await.is_error(500, r#"Selector "Foo" is not valid"#);
}

async fn an_impossible_operator_is_500(target: Target) {
    for (filter, text) in [
        ("Service.Tags == a", r#"Invalid match operator "Equal" for selector "Service.Tags""#),
        ("Service.Tags != a", r#"Invalid match operator "Not Equal" for selector "Service.Tags""#),
        ("Service.Port contains 1", r#"Invalid match operator "In" for selector "Service.Port""#),
        ("Service.Port not contains 1", r#"Invalid match operator "Not In" for selector "Service.Port""#),
        ("Service.ID is empty", r#"Invalid match operator "Is Empty" for selector "Service.ID""#),
        ("Service.ID is not empty", r#"Invalid match operator "Is Not Empty" for selector "Service.ID""#),
        ("Service == a", r#"Invalid match operator "Equal" for selector "Service""#),
        (
            "Service.Port == abc",
            r#"Failed to coerce value "abc" for selector "Service.Port": strconv.ParseInt: parsing "abc": invalid syntax"#,
        ),
        (
            "Service.EnableTagOverride == maybe",
            r#"Failed to coerce value "maybe" for selector "Service.EnableTagOverride": strconv.ParseBool: parsing "maybe": invalid syntax"#,
        ),
    ] {
        let text = format!("Failed to create boolean expression evaluator: {text}");
        target
            .get(format!("/v1/health/service/filter?filter={}", encoded(filter)))
            .await
            .is_error(500, &text);
    }
}

async fn a_wrong_filter_of_the_catalog_comes_with_a_meaningless_index(target: Target) {
    for path in [
        "/v1/catalog/service/filter",
        "/v1/health/checks/filter",
        "/v1/health/state/any",
        "/v1/catalog/nodes",
    ] {
        let reply = target.get(format!("{path}?filter=foo")).await;
        reply.is_status(500).has_header("x-consul-index", "1").has_header("x-consul-knownleader", "false");
        assert_eq!(reply.header("x-consul-effective-consistency"), "");
    }
}
