//! Whatever comes from an agent's address, what is known is kept, nothing
//! spins, and the words say what is wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use registry_client::{
    consul::{
        CheckSpec, CheckStatus, Client, ConsulResolver, Error, Registration, RegistrationState, ServiceSpec,
    },
    resolve::{Resolution, Resolver},
};
use tokio::{sync::watch, time::timeout};

use crate::consul::{
    agents::{TEST_TIMEOUT, eventually},
    liar::{FakeRegistry, Reply, Request},
};

pub(crate) fn entry(port: &str) -> String {
    format!(
        r#"{{"Node": {{"Node": "n", "Address": "127.0.0.1"}}, "Service": {{"ID": "web-{port}", "Service": "web",
        "Address": "127.0.0.1", "Port": {port}, "Weights": {{"Passing": 1, "Warning": 1}}}}, "Checks": []}}"#
    )
}

pub(crate) fn list(ports: &[&str]) -> String {
    let entries: Vec<String> = ports.iter().map(|port| entry(port)).collect();
    format!("[{}]", entries.join(","))
}

pub(crate) fn resolve(client: &Client) -> watch::Receiver<Resolution> {
    ConsulResolver::new(client.clone()).resolve(&"web".parse().unwrap())
}

pub(crate) async fn until(
    view: &mut watch::Receiver<Resolution>,
    condition: impl Fn(&Resolution) -> bool,
) -> Resolution {
    timeout(TEST_TIMEOUT, view.wait_for(condition)).await.expect("in time").unwrap().clone()
}

pub(crate) fn ports(resolution: &Resolution) -> Vec<u16> {
    let instances = resolution.instances.iter().flat_map(|instances| instances.iter());
    instances.map(|instance| instance.address.port()).collect()
}

/// Answers well, then by `garbage`, then well again with one more instance.
async fn survives(garbage: fn() -> Reply, words: &str) {
    let repaired = Arc::new(AtomicBool::new(false));
    let is_repaired = Arc::clone(&repaired);
    let liar =
        FakeRegistry::start(move |request: &Request| match (request.turn, is_repaired.load(Relaxed)) {
            (0, _) => Reply::good(5, &list(&["5001"])),
            (_, false) => garbage(),
            (_, true) if request.blocks() => Reply::Hang,
            (_, true) => Reply::good(6, &list(&["5001", "5002"])),
        })
        .await;
    let mut view = resolve(&liar.client());
    let failed = until(&mut view, |now| now.error.is_some()).await;
    assert_eq!(ports(&failed), [5001], "the last good set is kept: {words}");
    let error = failed.error.unwrap();
    assert!(error.contains(words) && error.contains("127.0.0.1:"), "{words}: {error}");
    assert!(!error.contains('\n') && error.len() < 900, "{error}");
    repaired.store(true, Relaxed);
    let healed = until(&mut view, |now| now.error.is_none()).await;
    assert_eq!(ports(&healed), [5001, 5002], "{words}");
    let stray: Vec<_> =
        liar.seen().into_iter().filter(|r| !r.target.starts_with("/v1/health/service/web?")).collect();
    assert!(stray.is_empty(), "{words}: {stray:?}");
}

#[tokio::test]
async fn the_last_good_set_survives_whatever_is_answered() {
    const HTML: &str = "<html>\r\n<h1>It works!</h1></html>";
    type Garbage = fn() -> Reply;
    let garbage: [(Garbage, &str); 16] = [
        (|| Reply::good(9, HTML), "is not Consul's"),
        (|| Reply::good(9, r#"[{"Node": {"#), "EOF while parsing"),
        (|| Reply::good(9, r#"{"Node": 1}"#), "a list of at most"),
        (|| Reply::good(9, r#"[{"Service": "x"}]"#), "invalid type"),
        (|| Reply::good(9, ""), "EOF while parsing"),
        (|| Reply::good(9, &"[".repeat(100_000)), "is not Consul's"),
        (|| Reply::plain(404, "404 page not found"), "404 page not found"),
        (|| Reply::plain(500, "No cluster leader"), "500: No cluster leader"),
        (|| Reply::plain(503, "resolver error"), "503: resolver error"),
        (
            || Reply::plain(429, "Your IP is issuing too many concurrent connections"),
            "rejects requests because of too many",
        ),
        (
            || Reply::Http(307, vec![("Location", "/v1/health/service/other".to_owned())], String::new()),
            "307, a redirect to /v1/health/service/other",
        ),
        (|| Reply::plain(200, "[]"), "knows no leader"),
        (
            || Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[{\"Node\"".to_vec()),
            "in the middle",
        ),
        (|| Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "cannot reach"),
        (|| Reply::Close, "cannot reach"),
        (|| Reply::Endless, "longer than the 8388608 bytes"),
    ];
    join_all(garbage.map(|(garbage, words)| survives(garbage, words))).await;
}

#[tokio::test]
async fn an_instance_that_cannot_be_dialled_is_left_out_and_the_others_stay() {
    let ports_answered = ["70000", "0", "-1", "1e99", "\"80\"", "null", "5001", "184467440737095516150"];
    let liar = FakeRegistry::start(move |request| match request.blocks() {
        true => Reply::Hang,
        false => Reply::good(5, &list(&ports_answered).replace("web-\"80\"", "web-text")),
    })
    .await;
    let mut view = resolve(&liar.client());
    let found = until(&mut view, |now| now.instances.is_some()).await;
    assert_eq!((ports(&found), found.error), (vec![5001], None));
}

#[tokio::test]
async fn a_streaming_answer_that_is_none_publishes_nothing() {
    let streaming = |index: &str, body: &str| {
        let headers = vec![
            ("X-Consul-Index", index.to_owned()),
            ("X-Consul-Knownleader", "false".to_owned()),
            ("X-Consul-Query-Backend", "streaming".to_owned()),
        ];
        Reply::Http(200, headers, body.to_owned())
    };
    let liar = FakeRegistry::start(move |request| match (request.turn, request.blocks()) {
        (0, _) => Reply::good(5, &list(&["5001"])),
        (1, _) => streaming("1", "[]"),
        (2, _) => Reply::good(3, &list(&["5001"])),
        (3, _) => streaming("2", "[]"),
        (4, _) => Reply::good(3, &list(&["5001", "5002"])),
        (_, true) => Reply::Hang,
        (_, false) => Reply::Close,
    })
    .await;
    let mut view = resolve(&liar.client());
    let mut reported = Vec::new();
    while reported.last() != Some(&vec![5001, 5002]) {
        timeout(TEST_TIMEOUT, view.changed()).await.expect("in time").unwrap();
        let now = view.borrow_and_update().clone();
        assert_eq!(now.error, None);
        reported.push(ports(&now));
    }
    assert_eq!(reported, [vec![5001], vec![5001, 5002]]);
    let indexes: Vec<bool> = liar.seen().iter().take(6).map(Request::blocks).collect();
    assert_eq!(indexes[..5], [false, true, false, true, false]);
}

#[tokio::test]
async fn one_watch_serves_all_who_look_and_ends_with_the_last() {
    let liar = FakeRegistry::start(|request| match request.blocks() {
        true => Reply::Hang,
        false => Reply::good(5, &list(&["5001"])),
    })
    .await;
    let client = liar.client();
    let mut views: Vec<_> = (0..10).map(|_| resolve(&client)).collect();
    for view in &mut views {
        until(view, |now| now.instances.is_some()).await;
    }
    eventually("it waits for a change", || async { liar.seen().len() == 2 }).await;
    let query = &liar.seen()[1].target;
    assert!(
        query.contains("stale") && query.contains("index=5&wait=25s") && !query.contains("passing"),
        "{query}"
    );
    views.truncate(1);
    drop(resolve(&client));
    assert_eq!(liar.open_connections(), 1);
    drop(views);
    eventually("the watch has ended", || async { liar.open_connections() == 0 }).await;
    // A new receiver starts the watch again.
    until(&mut resolve(&client), |now| now.instances.is_some()).await;
    assert_eq!(liar.seen().iter().filter(|request| !request.blocks()).count(), 2);
}

#[tokio::test]
async fn a_get_that_died_on_a_pooled_connection_is_sent_once_more_and_a_put_is_not() {
    let liar = FakeRegistry::start(|request| match request.nth {
        0 => Reply::good(5, r#""127.0.0.1:8300""#),
        _ => Reply::Close,
    })
    .await;
    let client = liar.client();
    for _ in 0..3 {
        assert_eq!(client.leader().await.unwrap().as_deref(), Some("127.0.0.1:8300"));
    }
    assert_eq!(liar.seen().len(), 5, "the second and third died once each");
    let put = client.pass_check("c").await;
    assert!(matches!(put, Err(Error::Unreachable { .. })), "{put:?}");
    assert_eq!(liar.seen().iter().filter(|request| request.method == "PUT").count(), 1);
}

#[tokio::test]
async fn the_token_goes_by_header_and_a_new_one_in_its_file_is_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "canary-old\n").unwrap();
    let liar = FakeRegistry::start(|request| match request.head.contains("x-consul-token: canary-new") {
        true => Reply::good(1, "{}"),
        false => Reply::plain(403, "ACL not found"),
    })
    .await;
    let client = Client::builder(&liar.addr.to_string()).token_file(&file).build().unwrap();
    let refused = client.services().await.unwrap_err();
    assert!(refused.to_string().contains("unknown to Consul"), "{refused}");
    std::fs::write(&file, "canary-new").unwrap();
    client.services().await.unwrap();
    assert!(liar.seen().iter().all(|request| !request.target.contains("canary")));
    assert!(!format!("{refused:?} {refused} {client:?}").contains("canary"));
}

#[tokio::test]
async fn basic_authentication_is_sent() {
    let liar = FakeRegistry::start(|_| Reply::good(1, "{}")).await;
    let client = Client::builder(&liar.addr.to_string()).basic_auth("user:word".to_owned()).build().unwrap();
    client.services().await.unwrap();
    // In lower case, as heads are kept.
    assert!(liar.seen()[0].head.contains(&"authorization: Basic dXNlcjp3b3Jk".to_ascii_lowercase()));
}

#[tokio::test]
async fn a_namespace_is_sent_to_enterprise_and_refused_for_a_community_agent() {
    for (version, expected) in [("1.22.5+ent", Some("ns=team&partition=p")), ("1.22.5", None)] {
        let liar = FakeRegistry::start(move |request| match request.target.as_str() {
            "/v1/agent/version" => Reply::good(1, &format!(r#"{{"HumanVersion": "{version}"}}"#)),
            _ => Reply::good(1, "{}"),
        })
        .await;
        let builder = Client::builder(&liar.addr.to_string());
        let answer = builder.clone().namespace("team").partition("p").build().unwrap().services().await;
        match expected {
            Some(query) => assert!(liar.seen()[1].target.ends_with(query), "{:?}", liar.seen()),
            None => assert!(
                answer.unwrap_err().to_string().contains("CONSUL_NAMESPACE=`team` needs Consul Enterprise")
            ),
        }
        // What a community agent has anyway is left out.
        builder.namespace("default").build().unwrap().services().await.unwrap();
        assert_eq!(liar.seen().last().unwrap().target.contains("ns="), expected.is_some());
    }
}

fn spec() -> ServiceSpec {
    ServiceSpec::new("web".parse().unwrap(), "127.0.0.1:5001".parse().unwrap(), CheckSpec::ttl())
}

#[tokio::test]
async fn an_agent_that_hangs_delays_a_farewell_by_no_more_than_two_seconds() {
    let hangs = Arc::new(AtomicBool::new(false));
    let is_hanging = Arc::clone(&hangs);
    let liar =
        FakeRegistry::start(move |request| match (is_hanging.load(Relaxed), request.method.as_str()) {
            (false, "PUT") => Reply::plain(200, ""),
            _ => Reply::Hang,
        })
        .await;
    // Registered, and not yet.
    for ahead in [true, false] {
        hangs.store(!ahead, Relaxed);
        let registration = Registration::start(liar.client(), spec()).unwrap();
        if ahead {
            let mut state = registration.state();
            let registered = state.wait_for(|state| *state == RegistrationState::Registered);
            timeout(TEST_TIMEOUT, registered).await.unwrap().unwrap();
        }
        hangs.store(true, Relaxed);
        let start = Instant::now();
        let (kept, gone) = (registration.maintenance("stopping").await, registration.deregister().await);
        assert!(
            matches!((&kept, &gone), (Err(Error::Timeout { .. }), Err(Error::Timeout { .. }))),
            "{kept:?} {gone:?}"
        );
        assert!(start.elapsed() < Duration::from_millis(4_500), "it took {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_registration_that_cannot_be_made_does_not_spin() {
    let liar = FakeRegistry::start(|_| Reply::plain(500, "No cluster leader")).await;
    let registration = Registration::start(liar.client(), spec()).unwrap();
    let mut state = registration.state();
    let says = |state: &RegistrationState| format!("{state:?}").contains("No cluster leader");
    timeout(TEST_TIMEOUT, state.wait_for(says)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = liar.seen().len();
    assert!((2..=25).contains(&requests), "{requests} requests in 3 s");
}

#[tokio::test]
async fn a_refused_registration_says_which_right_it_needs_and_is_not_hurried() {
    let liar = FakeRegistry::start(|_| {
        Reply::plain(403, "Permission denied: token lacks permission 'service:write'")
    })
    .await;
    let registration = Registration::start(liar.client(), spec()).unwrap();
    let mut state = registration.state();
    let says = |state: &RegistrationState| {
        let words = format!("{state:?}");
        words.contains("set CONSUL_HTTP_TOKEN to a token with service:write on `web`")
    };
    timeout(TEST_TIMEOUT, state.wait_for(says)).await.expect("it says so").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(liar.seen().len(), 1);
}

#[tokio::test]
async fn two_processes_with_one_id_do_not_fight_in_a_spin() {
    let agent = crate::consul::agents::TestAgent::development().await;
    let client = agent.client();
    let mut other = spec();
    other.address = "127.0.0.1:5002".parse().unwrap();
    let registrations = [spec(), other].map(|spec| Registration::start(client.clone(), spec).unwrap());
    let mut state = registrations[0].state();
    let says = |state: &RegistrationState| {
        format!("{state:?}").contains("if another process uses it, give each its own")
    };
    timeout(TEST_TIMEOUT, state.wait_for(says)).await.expect("it says so").unwrap();
    // Each registration by one is noticed by the other.
    let id = registrations[0].spec().id.clone();
    let (mut changes, mut last) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        if let Ok(service) = client.service(&id).await
            && service.port != last
        {
            (changes, last) = (changes + 1, service.port);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(changes <= 12, "{changes} changes in 4 s");
}

#[tokio::test]
async fn a_check_of_another_type_means_that_the_agent_forgot_us() {
    let liar = FakeRegistry::start(|request| match (request.method.as_str(), request.target.as_str()) {
        ("PUT", target) if target.starts_with("/v1/agent/check/update") => {
            Reply::plain(500, r#"CheckID "x" does not have associated TTL"#)
        }
        ("PUT", _) => Reply::plain(200, ""),
        _ => Reply::Hang,
    })
    .await;
    let registration = Registration::start(liar.client(), spec()).unwrap();
    registration.report(CheckStatus::Passing, "well");
    let twice =
        || async { liar.seen().iter().filter(|r| r.target.ends_with("service/register")).count() >= 2 };
    eventually("it registers again", twice).await;
}

#[tokio::test]
async fn an_agent_that_forgot_an_instance_that_passed_is_notified_that_it_passes() {
    let looked = Arc::new(AtomicBool::new(false));
    let has_looked = Arc::clone(&looked);
    let entry = r#"{"ID": "web-127.0.0.1-5001", "Service": "web", "Address": "127.0.0.1", "Port": 5001,
        "Weights": {"Passing": 1, "Warning": 1}}"#;
    let checks = r#"{"service:web-127.0.0.1-5001:ttl": {"ServiceID": "web-127.0.0.1-5001", "Type": "ttl",
        "CheckID": "service:web-127.0.0.1-5001:ttl", "Status": "passing"}}"#;
    let liar = FakeRegistry::start(move |request| match (request.method.as_str(), request.target.as_str()) {
        ("PUT", _) => Reply::plain(200, ""),
        (_, "/v1/agent/checks") => {
            has_looked.store(true, Relaxed);
            Reply::plain(200, checks)
        }
        (_, target) if target.starts_with("/v1/agent/service/") && has_looked.load(Relaxed) => {
            Reply::plain(404, "unknown service ID: web-127.0.0.1-5001")
        }
        (_, target) if target.starts_with("/v1/agent/service/") => Reply::plain(200, entry),
        _ => Reply::Hang,
    })
    .await;
    let _registration = Registration::start(liar.client(), spec()).unwrap();
    let registrations = || -> Vec<String> {
        let seen = liar.seen().into_iter();
        seen.filter(|r| r.target.ends_with("service/register")).map(|r| r.body).collect()
    };
    eventually("it registers again", || async { registrations().len() >= 2 }).await;
    assert!(looked.load(Relaxed), "the loss comes after the look");
    let reported = registrations();
    assert!(reported[0].contains(r#""Status":"critical""#), "{}", reported[0]);
    assert!(reported[1].contains(r#""Status":"passing""#), "{}", reported[1]);
}
