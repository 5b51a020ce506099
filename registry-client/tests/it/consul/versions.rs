//! What is sent to agents of which version.

use registry_client::{
    consul::{CheckSpec, ServiceSpec},
    instance::Locality,
};

use crate::{
    consul::liar::{FakeRegistry, Reply},
    log::Log,
};

/// An instance with everything that came to Consul with time.
fn spec() -> ServiceSpec {
    let address = "127.0.0.1:5001".parse().unwrap();
    let mut check = CheckSpec::grpc(&address, "");
    let CheckSpec::Grpc { success_before_passing, failures_before_critical, .. } = &mut check else {
        panic!("a gRPC check is expected")
    };
    (*success_before_passing, *failures_before_critical) = (2, 3);
    let mut spec = ServiceSpec::new("web".parse().unwrap(), address, check);
    spec.locality = Some(Locality::new("eu", "a").unwrap());
    spec
}

/// An agent that takes every registration, and answers `version` when it is
/// queried for its own.
async fn agent(version: fn() -> Reply) -> FakeRegistry {
    FakeRegistry::start(move |request| match request.target.as_str() {
        "/v1/agent/version" => version(),
        "/v1/agent/self" => Reply::good(1, r#"{"Config": {"Version": "1.6.10"}}"#),
        _ => Reply::plain(200, ""),
    })
    .await
}

fn of_version(version: &str) -> Reply {
    Reply::good(1, &format!(r#"{{"HumanVersion": "{version}"}}"#))
}

#[tokio::test]
async fn an_older_agent_is_not_sent_what_it_does_not_know_which_is_said_once() {
    type Version = fn() -> Reply;
    let cases: [(Version, bool, bool, &str); 6] = [
        // Before 1.15 only `/v1/agent/self` had the version.
        (|| Reply::plain(404, "404 page not found"), false, false, "is Consul 1.6.10"),
        (|| of_version("1.7.0"), true, false, "is Consul 1.7.0"),
        (|| of_version("1.15.11"), true, false, "is Consul 1.15.11"),
        (|| of_version("1.16.0"), true, true, "nothing"),
        (|| of_version("1.22.5+ent"), true, true, "nothing"),
        (|| Reply::plain(403, "Permission denied"), false, false, "agent:read"),
    ];
    for (version, thresholds, locality, words) in cases {
        let (log, _guard) = Log::begin();
        let agent = agent(version).await;
        let client = agent.client();
        for _ in 0..2 {
            client.register(&spec()).await.unwrap();
        }
        let registrations = agent.seen().into_iter().filter(|request| request.method == "PUT");
        let bodies: Vec<serde_json::Value> =
            registrations.map(|request| serde_json::from_str(&request.body).unwrap()).collect();
        assert_eq!(bodies.len(), 2);
        for body in bodies {
            let check = &body["Checks"][0];
            for field in ["SuccessBeforePassing", "FailuresBeforeCritical"] {
                assert_eq!(check.get(field).is_some(), thresholds, "{words}: {body}");
            }
            assert_eq!(body.get("Locality").is_some(), locality, "{words}: {body}");
        }
        let warnings = log.lines("instances are registered without");
        assert_eq!(warnings.len(), usize::from(!thresholds) + usize::from(!locality), "{warnings:?}");
        assert!(warnings.iter().all(|line| line.contains("WARN") && line.contains(words)), "{warnings:?}");
    }
}

#[tokio::test]
async fn an_agent_that_cannot_tell_its_version_now_is_asked_again_before_anything_is_left_out() {
    let agent = agent(|| Reply::plain(500, "No cluster leader")).await;
    let failed = agent.client().register(&spec()).await.unwrap_err();
    assert!(failed.is_retryable(), "{failed}");
    assert!(agent.seen().iter().all(|request| request.method == "GET"), "{:?}", agent.seen());
}

#[tokio::test]
async fn an_agent_is_asked_for_its_version_only_where_that_matters() {
    let agent = agent(|| of_version("1.22.5")).await;
    let mut plain = spec();
    plain.locality = None;
    plain.check = CheckSpec::grpc(&plain.address, "");
    agent.client().register(&plain).await.unwrap();
    let targets: Vec<String> = agent.seen().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/v1/agent/service/register"]);
}
