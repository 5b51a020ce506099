use proptest::prelude::*;

use super::*;
use crate::{
    code::{Code, Codes},
    health::outlier::{Consecutive, FailurePercentage, SuccessRate},
};

fn said(json: &str) -> String {
    ServiceConfig::parse(json).unwrap_err().to_string()
}

fn of<'a>(config: &'a ServiceConfig, path: &str) -> &'a MethodConfig {
    config.of(path).0
}

const METHODS: &str = r#"{"methodConfig": [
    {"name": [{}], "timeout": "1s"},
    {"name": [{"service": "p.S"}, {"service": "p.T", "method": ""}], "waitForReady": false},
    {
        "name": [{"service": "p.S", "method": "Read"}],
        "waitForReady": true,
        "timeout": "1.5s",
        "maxRequestMessageBytes": "4096",
        "maxResponseMessageBytes": 8192,
        "retryPolicy": {
            "maxAttempts": 4,
            "initialBackoff": "0.01s",
            "maxBackoff": "2s",
            "backoffMultiplier": 1.5,
            "retryableStatusCodes": ["UNAVAILABLE", "aborted", 13]
        }
    },
    {
        "name": [{"service": "p.S", "method": "Search"}],
        "hedgingPolicy": {
            "maxAttempts": 9,
            "hedgingDelay": "0.05s",
            "nonFatalStatusCodes": ["UNAVAILABLE"]
        }
    }
]}"#;

#[test]
fn every_setting_of_a_method_is_read() {
    let config = ServiceConfig::parse(METHODS).unwrap();
    let read = of(&config, "/p.S/Read");
    assert_eq!((read.timeout, read.wait_for_ready), (Some(Duration::from_millis(1_500)), Some(true)));
    assert_eq!((read.max_request_bytes, read.max_response_bytes), (Some(4_096), Some(8_192)));
    let retry = read.retry.unwrap();
    assert_eq!((retry.max_attempts, retry.multiplier, retry.applies), (4, 1.5, true));
    let backoffs = (Duration::from_millis(10), Duration::from_secs(2));
    assert_eq!((retry.initial_backoff, retry.max_backoff), backoffs);
    let codes = ["UNAVAILABLE", "ABORTED", "INTERNAL"].map(|name| name.parse::<Code>().unwrap());
    assert_eq!(retry.codes, codes.into_iter().collect());
    let hedging = of(&config, "/p.S/Search").hedging.unwrap();
    assert_eq!(hedging.delay, HedgeDelay::Fixed(Duration::from_millis(50)));
    assert_eq!((hedging.max_attempts, hedging.non_fatal), (5, Codes::of(&[Code::UNAVAILABLE])));
}

#[test]
fn the_most_specific_name_holds_whole() {
    let config = ServiceConfig::parse(METHODS).unwrap();
    let others = of(&config, "/p.S/Other");
    assert_eq!((others.wait_for_ready, others.timeout), (Some(false), None));
    assert_eq!(of(&config, "/p.T/Other").wait_for_ready, Some(false));
    assert_eq!(of(&config, "/q.U/Other").timeout, Some(Duration::from_secs(1)));
    assert!(config.of("/p.S/Read").1 && !config.of("/p.S/Other").1);
}

#[test]
fn a_name_twice_is_refused_with_both_places() {
    assert_eq!(
        said(
            r#"{"methodConfig": [{"name": [{"service": "a.B"}]}, {"name": [{}, {"service": "a.B", "method": ""}]}]}"#
        ),
        "methodConfig[1].name[1]: a.B is named already, by methodConfig[0].name[0]"
    );
    assert!(
        said(r#"{"methodConfig": [{"name": [{}]}, {"name": [{}]}]}"#)
            .contains("the default is named already")
    );
}

/// Wraps the settings of one method.
fn method(settings: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{}}]}}, {{"name": [{{"service": "s"}}], {settings}}}]}}"#)
}

/// Wraps a retry policy in which one setting is replaced or added.
fn retry(name: &str, value: &str) -> String {
    let mut settings = std::collections::BTreeMap::from([
        ("maxAttempts", "3"),
        ("initialBackoff", "\"0.1s\""),
        ("maxBackoff", "\"1s\""),
        ("backoffMultiplier", "2"),
        ("retryableStatusCodes", "[14]"),
    ]);
    settings.insert(name, value);
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    method(&format!("\"retryPolicy\": {{{}}}", settings.join(", ")))
}

#[test]
fn what_is_wrong_with_a_retry_policy_is_said_by_path_value_and_expectation() {
    assert!(ServiceConfig::parse(&retry("maxAttempts", "\"3\"")).is_ok());
    let at = "methodConfig[1].retryPolicy.";
    for (name, value, expected) in [
        ("maxAttempts", "1", "1 is no retry; an integer of 2 or more is expected"),
        ("maxAttempts", "\"many\"", "\"many\" is no retry; an integer of 2 or more is expected"),
        ("maxAttempts", "null", "is missing; an integer of 2 or more is expected"),
        ("initialBackoff", "\"0s\"", "\"0s\" is no time at all; a duration above 0 is expected"),
        ("initialBackoff", "\"2s\"", "2s is above maxBackoff, 1s; at most that is expected"),
        ("maxBackoff", "\"1m\"", "\"1m\" is no duration; seconds such as \"15s\" or \"0.25s\" are expected"),
        ("backoffMultiplier", "0", "0 is not a number above 0"),
        ("perAttemptRecvTimeout", "\"0s\"", "\"0s\" is no time at all; a duration above 0 is expected"),
        ("retryableStatusCodes", "[]", "[] names no code; at least one is expected, such as \"UNAVAILABLE\""),
        (
            "hedgingDelay",
            "\"1s\"",
            "there is no such setting; there are maxAttempts, initialBackoff, maxBackoff, backoffMultiplier, retryableStatusCodes, perAttemptRecvTimeout",
        ),
    ] {
        assert_eq!(said(&retry(name, value)), format!("{at}{name}: {expected}"));
    }
    assert_eq!(
        said(&retry("retryableStatusCodes", "[\"BUSY\"]")),
        format!(
            "{at}retryableStatusCodes[0]: \"BUSY\" is no gRPC status code; a name such as \"UNAVAILABLE\" or 1 to 16 is expected"
        )
    );
}

#[test]
fn settings_of_a_method_that_cannot_be_are_refused() {
    let at = "methodConfig[1].";
    for (settings, expected) in [
        (r#""timeout": 5"#, "timeout: 5 is no duration; seconds such as \"15s\" or \"0.25s\" are expected"),
        (r#""timeout": "0s""#, "timeout: \"0s\" is no time at all; a duration above 0 is expected"),
        (r#""waitForReady": "yes""#, "waitForReady: \"yes\" is neither; true or false is expected"),
        (
            r#""maxRequestMessageBytes": -1"#,
            "maxRequestMessageBytes: -1 does not do; an integer of 0 or more is expected",
        ),
        (
            r#""hedgingPolicy": {"maxAttempts": 1}"#,
            "hedgingPolicy.maxAttempts: 1 is no hedging; an integer of 2 or more is expected",
        ),
        (
            r#""hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "1s", "consort": {"percentile": 95}}"#,
            "hedgingPolicy.consort.percentile: excludes hedgingDelay; only one of them is expected",
        ),
        (
            r#""hedgingPolicy": {"maxAttempts": 2, "consort": {"percentile": 100}}"#,
            "hedgingPolicy.consort.percentile: 100 does not do; an integer of 1 to 99 is expected",
        ),
        (
            r#""hedgingPolicy": {"maxAttempts": 2}, "consort": {"retry": false}"#,
            "consort.retry: false excludes retryPolicy and hedgingPolicy; only one of them is expected",
        ),
        (
            r#""retry": {}"#,
            "retry: there is no such setting; there are name, waitForReady, timeout, maxRequestMessageBytes, maxResponseMessageBytes, retryPolicy, hedgingPolicy, consort",
        ),
    ] {
        assert_eq!(said(&method(settings)), format!("{at}{expected}"));
    }
    let both = retry("maxAttempts", "2")
        .replace("\"retryPolicy\"", r#""hedgingPolicy": {"maxAttempts": 2}, "retryPolicy""#);
    assert_eq!(
        said(&both),
        "methodConfig[1].hedgingPolicy: excludes retryPolicy; only one of them is expected"
    );
}

#[test]
fn names_that_name_nothing_are_refused() {
    assert!(said(r#"{"methodConfig": [{"timeout": "1s"}]}"#).starts_with("methodConfig[0].name: is missing"));
    assert!(said(r#"{"methodConfig": [{"name": []}]}"#).starts_with("methodConfig[0].name: names nothing"));
    assert!(said(r#"{"methodConfig": [{"name": {}}]}"#).starts_with("methodConfig[0].name: {} is no list"));
    assert_eq!(
        said(r#"{"methodConfig": [{"name": [{"method": "Get"}]}]}"#),
        "methodConfig[0].name[0].service: is missing; the service of `Get` is expected, such as \"shop.cart.v1.CartService\""
    );
}

#[test]
fn retries_are_switched_off_and_hedges_follow_a_percentile_by_our_own_settings() {
    let config = ServiceConfig::parse(&method(r#""consort": {"retry": false}"#)).unwrap();
    assert_eq!(of(&config, "/s/M").retry, Some(RetryPolicy::off()));
    let json = method(r#""hedgingPolicy": {"maxAttempts": 2, "consort": {"percentile": "95"}}"#);
    let config = ServiceConfig::parse(&json).unwrap();
    assert_eq!(of(&config, "/s/M").hedging.unwrap().delay, HedgeDelay::Percentile(95));
}

#[test]
fn the_budget_is_grpcs_tokens_or_our_share_and_not_both() {
    let tokens = r#""retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}"#;
    let share = r#""consort": {"budget": {"ratio": 0.1, "minPerSecond": 3}}"#;
    let budget = |settings: &str| ServiceConfig::parse(&format!("{{{settings}}}")).unwrap().budget;
    assert_eq!(budget(tokens), BudgetConfig::Tokens { max_tokens: 10, token_ratio: 0.1 });
    assert_eq!(budget(share), BudgetConfig::Share { ratio: 0.1, min_per_second: 3 });
    assert_eq!(budget(""), BudgetConfig::default());
    assert_eq!(
        said(&format!("{{{tokens}, {share}}}")),
        "consort.budget: excludes retryThrottling; only one of them is expected"
    );
    for (bad, path) in [
        (r#"{"maxTokens": 0, "tokenRatio": 1}"#, "retryThrottling.maxTokens: 0"),
        (r#"{"maxTokens": 1001, "tokenRatio": 1}"#, "retryThrottling.maxTokens: 1001"),
        (r#"{"maxTokens": 10, "tokenRatio": 0}"#, "retryThrottling.tokenRatio: 0"),
        (r#"{"maxTokens": 10, "tokenRatio": 0.0001}"#, "retryThrottling.tokenRatio: 0.0001"),
        (r#"{"maxTokens": 10}"#, "retryThrottling.tokenRatio: is missing"),
    ] {
        let said = said(&format!(r#"{{"retryThrottling": {bad}}}"#));
        assert!(said.starts_with(path), "{said}");
    }
}

#[test]
fn limits_and_the_throttle_are_ours() {
    let config = ServiceConfig::parse(
        r#"{"consort": {
            "throttle": {"k": 1.5, "window": "5s"},
            "limits": {
                "service": {"maxConcurrent": 100, "maxWaiting": 10, "maxWait": "0.2s"},
                "instance": {"maxConcurrent": 20}
            }
        }}"#,
    )
    .unwrap();
    let throttle = config.throttle.unwrap();
    assert_eq!((throttle.k, throttle.window), (1.5, Duration::from_secs(5)));
    let off = ServiceConfig::parse(r#"{"consort": {"throttle": false}}"#).unwrap();
    assert_eq!(off.throttle, None);
    assert_eq!(ServiceConfig::parse("{}").unwrap().throttle, Some(ThrottleConfig::default()));
    let limit = config.service_limit.unwrap();
    assert_eq!((limit.max, limit.queue, limit.wait), (100, 10, Duration::from_millis(200)));
    assert_eq!(config.instance_limit, Some(LimitConfig::new(20)));
    for (bad, path) in [
        (r#"{"throttle": {"k": 0.5}}"#, "consort.throttle.k: 0.5"),
        (r#"{"throttle": {"window": "60s"}}"#, "consort.throttle.window: \"60s\" is too long"),
        (r#"{"limits": {"service": {"maxConcurrent": 0}}}"#, "consort.limits.service.maxConcurrent: 0"),
        (r#"{"limits": {"host": {}}}"#, "consort.limits.host: there is no such setting"),
        (r#"{"budget": {"ratio": -0.1}}"#, "consort.budget.ratio: -0.1"),
        (r#"{"retries": 3}"#, "consort.retries: there is no such setting"),
    ] {
        let said = said(&format!(r#"{{"consort": {bad}}}"#));
        assert!(said.starts_with(path), "{said}");
    }
}

#[test]
fn of_the_balancing_policies_the_first_that_is_known_is_used() {
    let balancer = |list: &str| {
        ServiceConfig::parse(&format!(r#"{{"loadBalancingConfig": {list}}}"#)).map(|config| config.balancer)
    };
    for (list, expected) in [
        (r#"[{"round_robin": {}}]"#, Balancer::RoundRobin),
        (r#"[{"xds_cluster": {"cluster": "c"}}, {"random": {}}, {"round_robin": {}}]"#, Balancer::Random),
        (r#"[{"weighted_round_robin": {}}]"#, Balancer::Weighted),
        (r#"[{"least_request": {}}]"#, Balancer::LeastRequest),
        (r#"[{"least_request_experimental": {"choiceCount": 2}}]"#, Balancer::LeastRequest),
    ] {
        assert_eq!(balancer(list), Ok(Some(expected)), "{list}");
    }
    for (list, expected) in [
        (
            r#"[{"pick_first": {}}]"#,
            "loadBalancingConfig: none of its policies is known; there are round_robin",
        ),
        ("[]", "loadBalancingConfig: none of its policies is known"),
        (r#"[{"random": {}, "round_robin": {}}]"#, "loadBalancingConfig[0]: exactly one entry is expected"),
        (
            r#"[{"least_request": {"choiceCount": 3}}]"#,
            "loadBalancingConfig[0].least_request.choiceCount: 3 is not supported",
        ),
        (
            r#"[{"weighted_round_robin": {"blackoutPeriod": "10s"}}]"#,
            "loadBalancingConfig[0].weighted_round_robin.blackoutPeriod: there is no such setting",
        ),
        (r#"[{"round_robin": []}]"#, "loadBalancingConfig[0].round_robin: [] is no object"),
    ] {
        let said = balancer(list).unwrap_err().to_string();
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn the_older_setting_may_not_contradict_the_newer() {
    let old = |name: &str| ServiceConfig::parse(&format!(r#"{{"loadBalancingPolicy": "{name}"}}"#));
    assert_eq!(old("ROUND_ROBIN").unwrap().balancer, Some(Balancer::RoundRobin));
    assert!(
        old("grpclb").unwrap_err().to_string().starts_with("loadBalancingPolicy: \"grpclb\" is no policy")
    );
    let both = |old: &str| {
        format!(r#"{{"loadBalancingConfig": [{{"random": {{}}}}], "loadBalancingPolicy": "{old}"}}"#)
    };
    assert!(ServiceConfig::parse(&both("random")).is_ok());
    assert_eq!(
        said(&both("round_robin")),
        "loadBalancingPolicy: round_robin contradicts loadBalancingConfig, which says random; one of them is expected"
    );
}

#[test]
fn outlier_detection_is_read_with_the_policy_below_it() {
    let json = |settings: &str| {
        format!(r#"{{"loadBalancingConfig": [{{"outlier_detection_experimental": {{{settings}}}}}]}}"#)
    };
    let child = r#""childPolicy": [{"xds": {}}, {"round_robin": {}}]"#;
    let config = ServiceConfig::parse(&json(child)).unwrap();
    assert_eq!((config.balancer, config.outlier), (Some(Balancer::RoundRobin), Some(OutlierConfig::a50())));
    let config = ServiceConfig::parse(&json(&format!(
        r#""interval": "1s", "baseEjectionTime": "2s", "maxEjectionTime": "3s", "maxEjectionPercent": "50",
           "successRateEjection": {{"stdevFactor": 1000, "requestVolume": 10}},
           "failurePercentageEjection": {{"threshold": 40, "minimumHosts": 3}}, {child}"#
    )));
    let expected = OutlierConfig {
        interval: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(2),
        max_ejection_time: Duration::from_secs(3),
        max_ejection_percent: 50,
        success_rate: Some(SuccessRate { stdev_factor: 1_000, request_volume: 10, ..SuccessRate::default() }),
        failure_percentage: Some(FailurePercentage {
            threshold: 40,
            enforcement_percentage: 100,
            minimum_hosts: 3,
            request_volume: 50,
        }),
        ..OutlierConfig::a50()
    };
    assert_eq!(config.unwrap().outlier, Some(expected));
    let consort_settings = r#""consort": {"consecutiveFailures": 5, "lostConnections": 2, "compare": true}"#;
    let expected = OutlierConfig {
        consecutive: Some(Consecutive { failures: 5.try_into().unwrap(), enforcement_percentage: 100 }),
        lost_connections: Some(2.try_into().unwrap()),
        compare: true,
        ..OutlierConfig::a50()
    };
    let config = ServiceConfig::parse(&json(&format!("{consort_settings}, {child}")));
    assert_eq!(config.unwrap().outlier, Some(expected));
    let at = "loadBalancingConfig[0].outlier_detection_experimental.";
    for (settings, expected) in [
        ("", "childPolicy: is missing"),
        (r#""interval": "0s""#, "interval: \"0s\" is no time at all"),
        (r#""maxEjectionPercent": 101"#, "maxEjectionPercent: 101 does not do; an integer of 0 to 100"),
        (r#""consort": {"consecutiveFailures": 65}"#, "consort.consecutiveFailures: 65 does not do"),
        (r#""successRateEjection": {"stdev": 1}"#, "successRateEjection.stdev: there is no such setting"),
        (
            &format!(r#""childPolicy": [{{"outlier_detection_experimental": {{{child}}}}}]"#),
            "childPolicy: is outlier_detection_experimental again",
        ),
    ] {
        let said = said(&json(settings));
        assert!(said.starts_with(&format!("{at}{expected}")), "{said}");
    }
}

#[test]
fn the_health_service_may_be_the_server_as_a_whole() {
    let name = |json: &str| ServiceConfig::parse(json).map(|config| config.health_service);
    assert_eq!(name(r#"{"healthCheckConfig": {"serviceName": "a"}}"#), Ok(Some("a".into())));
    assert_eq!(name(r#"{"healthCheckConfig": {"serviceName": ""}}"#), Ok(Some("".into())));
    assert_eq!(name("{}"), Ok(None));
    assert!(name(r#"{"healthCheckConfig": {}}"#).is_err());
}

#[test]
fn what_is_unknown_at_the_top_is_refused() {
    assert!(
        said(r#"{"methodconfig": []}"#)
            .starts_with("methodconfig: there is no such setting; there are methodConfig,")
    );
    assert_eq!(said("[]"), "service config: [] is no object; {…} is expected");
    assert!(said(r#"{"consort": {}, "consort": {}}"#).contains("`consort` stands there twice"));
}

#[test]
fn a_file_is_read_where_the_text_is_no_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = ServiceConfig::from_file_or_json(&file("good.json", METHODS));
    assert_eq!(good, ServiceConfig::parse(METHODS));
    assert_eq!(ServiceConfig::from_file_or_json(" {}"), Ok(ServiceConfig::default()));
    let bad = file("bad.json", r#"{"methodConfig": 1}"#);
    let said = ServiceConfig::from_file_or_json(&bad).unwrap_err().to_string();
    assert_eq!(said, format!("`{bad}`: methodConfig: 1 is no list; […] is expected"));
    let large = file("large.json", &" ".repeat(MAX_FILE_BYTES as usize + 1));
    assert!(ServiceConfig::from_file_or_json(&large).unwrap_err().to_string().contains("above 1 MiB"));
    let said = ServiceConfig::from_file_or_json("/no/such/file").unwrap_err().to_string();
    assert!(said.starts_with("`/no/such/file` cannot be read"), "{said}");
}

#[test]
fn the_examples_of_the_book_are_accepted_and_the_first_holds_what_it_says() {
    let page = include_str!("../../../../docs/src/service-config.md");
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let configs: Vec<_> = blocks.map(|json| ServiceConfig::parse(json).unwrap()).collect();
    assert!(configs.len() > 3, "the page has lost its examples");
    assert!(of(&configs[0], "/shop.cart.v1.CartService/GetCart").hedging.is_some());
    assert!(of(&configs[0], "/shop.cart.v1.CartService/AddItem").timeout.is_some());
    assert_eq!(configs[0].balancer, Some(Balancer::LeastRequest));
    assert!(configs[0].service_limit.is_some());
}

/// Any JSON made of the words that a service config is made of.
fn near_configs() -> impl Strategy<Value = serde_json::Value> {
    let words = prop::sample::select(vec![
        "methodConfig",
        "name",
        "service",
        "method",
        "timeout",
        "retryPolicy",
        "hedgingPolicy",
        "maxAttempts",
        "initialBackoff",
        "retryableStatusCodes",
        "retryThrottling",
        "maxTokens",
        "tokenRatio",
        "consort",
        "loadBalancingConfig",
        "outlier_detection_experimental",
        "childPolicy",
        "round_robin",
        "1s",
        "-1s",
        "14",
    ]);
    let leaf = prop_oneof![
        words.clone().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::hash_map(words.clone().prop_map(String::from), inner, 0..6)
                .prop_map(|entries| entries.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    /// Whatever stands there, it is read or refused; what is read can be used.
    #[test]
    fn nothing_that_looks_like_a_config_does_harm(json in near_configs()) {
        if let Ok(config) = ServiceConfig::parse(&json.to_string()) {
            prop_assert!(config.check().is_ok());
        }
    }
}
