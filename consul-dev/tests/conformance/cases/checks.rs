//! TTL, TCP and gRPC checks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use super::{Case, cases, check};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_ttl_check_takes_every_status,
        a_ttl_check_takes_an_update,
        a_bad_update_is_refused,
        a_ttl_expires_and_a_heartbeat_revives_it,
        an_expired_ttl_keeps_the_last_output,
        a_long_output_is_cut,
        registering_again_restarts_the_ttl,
        a_heartbeat_of_an_unknown_check_is_404.since((1, 22, 0), "500 with another text before"),
        a_heartbeat_of_another_kind_of_check_is_500,
        output_alone_stays_out_of_the_catalog_until_the_next_registration,
        a_check_of_the_node_is_registered_and_removed.alone(),
        a_check_joins_a_service,
        a_bad_check_registration_is_refused,
        deregistering_an_unknown_check_is_404.since((1, 22, 0), "older ones word it differently"),
        a_tcp_check_follows_the_port,
        a_grpc_check_follows_the_health_service,
        a_grpc_check_says_what_is_wrong.since((1, 22, 0), "older gRPC libraries word it differently"),
        a_grpc_check_gives_up_after_its_timeout.since((1, 22, 0), "older gRPC libraries word it differently"),
        an_interval_below_a_second_is_raised,
    ]
}

pub(super) async fn agent_check(target: &Target, id: &str) -> Value {
    target.get("/v1/agent/checks").await.json()[id].clone()
}

/// Waits until the agent's check has that status and output.
pub(super) async fn becomes(target: &Target, id: &str, status: &str, output: &str) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let now = agent_check(target, id).await;
        if now["Status"] == status && now["Output"] == output {
            return;
        }
        assert!(Instant::now() < deadline, "{id} should be {status} with {output:?}, but is {now}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn a_ttl_check_takes_every_status(target: Target) {
    target.register(json!({"Name": "ttl-all", "Check": {"CheckID": "ttl-all", "TTL": "10m"}})).await;
    for (verb, status, note) in
        [("pass", "passing", "?note=fine%20today"), ("warn", "warning", ""), ("fail", "critical", "?note=no")]
    {
        let reply = target.put(format!("/v1/agent/check/{verb}/ttl-all{note}"), "").await;
        reply.is_done();
        let output = match note {
            "" => "",
            "?note=no" => "no",
            _ => "fine today",
        };
        becomes(&target, "ttl-all", status, output).await;
        let seen = target.get("/v1/health/checks/ttl-all").await.json();
        assert_eq!(seen[0]["Status"], status);
        assert_eq!(seen[0]["Output"], output);
    }
}

async fn a_ttl_check_takes_an_update(target: Target) {
    target.register(json!({"Name": "ttl-update", "Check": {"CheckID": "ttl-update", "TTL": "10m"}})).await;
    let body = json!({"Status": "warning", "Output": "slow"});
    target.put("/v1/agent/check/update/ttl-update", body.to_string()).await.is_done();
    becomes(&target, "ttl-update", "warning", "slow").await;
    target.put("/v1/agent/check/update/ttl-update", r#"{"status":"passing"}"#).await.is_done();
    becomes(&target, "ttl-update", "passing", "").await;
}

async fn a_bad_update_is_refused(target: Target) {
    target.register(json!({"Name": "ttl-bad", "Check": {"CheckID": "ttl-bad", "TTL": "10m"}})).await;
    for (body, text) in [
        (r#"{"Status":"bogus"}"#, "Invalid check status: 'bogus'"),
        ("{}", "Invalid check status: ''"),
        ("", "Request decode failed: EOF"),
        (r#"{"Status":"passing","Bogus":1}"#, r#"Request decode failed: json: unknown field "Bogus""#),
    ] {
        target.put("/v1/agent/check/update/ttl-bad", body).await.is_error(400, text);
    }
    if target.since(1, 22) {
        let text = "Request decode failed: json: cannot unmarshal number into Go struct field checkUpdate.Status of type string";
        target.put("/v1/agent/check/update/ttl-bad", r#"{"Status":1}"#).await.is_error(400, text);
    }
}

async fn a_ttl_expires_and_a_heartbeat_revives_it(target: Target) {
    let definition = json!({"CheckID": "ttl-short", "TTL": "700ms", "Status": "passing"});
    target.register(json!({"Name": "ttl-short", "Check": definition})).await;
    assert_eq!(agent_check(&target, "ttl-short").await["Status"], "passing");
    becomes(&target, "ttl-short", "critical", "TTL expired").await;
    // Changes that the agent finds reach the catalog a moment later.
    let started = Instant::now();
    while target.get("/v1/health/checks/ttl-short").await.json()[0]["Status"] != "critical" {
        assert!(started.elapsed() < Duration::from_secs(5), "not in the catalog");
        sleep(Duration::from_millis(20)).await;
    }
    target.put("/v1/agent/check/pass/ttl-short", "").await.is_done();
    becomes(&target, "ttl-short", "passing", "").await;
    becomes(&target, "ttl-short", "critical", "TTL expired").await;
}

async fn an_expired_ttl_keeps_the_last_output(target: Target) {
    target.register(json!({"Name": "ttl-last", "Check": {"CheckID": "ttl-last", "TTL": "500ms"}})).await;
    target.put("/v1/agent/check/pass/ttl-last?note=all%20well", "").await.is_done();
    let output = "TTL expired (last output before timeout follows): all well";
    becomes(&target, "ttl-last", "critical", output).await;
}

async fn a_long_output_is_cut(target: Target) {
    let definition = json!({"CheckID": "ttl-long", "TTL": "10m", "OutputMaxSize": 10});
    target.register(json!({"Name": "ttl-long", "Check": definition})).await;
    target.put("/v1/agent/check/pass/ttl-long?note=0123456789abcdef", "").await.is_done();
    becomes(&target, "ttl-long", "passing", "0123456789 ... (captured 10 of 16 bytes)").await;
    target.register(json!({"Name": "ttl-long-2", "Check": {"CheckID": "ttl-long-2", "TTL": "10m"}})).await;
    let body = json!({"Status": "passing", "Output": "x".repeat(5000)});
    target.put("/v1/agent/check/update/ttl-long-2", body.to_string()).await.is_done();
    let output = format!("{} ... (captured 4096 of 5000 bytes)", "x".repeat(4096));
    becomes(&target, "ttl-long-2", "passing", &output).await;
}

async fn registering_again_restarts_the_ttl(target: Target) {
    let definition =
        json!({"Name": "ttl-again", "Check": {"CheckID": "ttl-again", "TTL": "1500ms", "Status": "passing"}});
    target.register(definition.clone()).await;
    // Longer than the TTL in total, but never that long without a registration.
    for _ in 0..6 {
        sleep(Duration::from_millis(400)).await;
        assert_eq!(agent_check(&target, "ttl-again").await["Status"], "passing");
        target.register(definition.clone()).await;
    }
}

async fn a_heartbeat_of_an_unknown_check_is_404(target: Target) {
    let text = r#"Unknown check ID "unknown". Ensure that the check ID is passed, not the check name."#;
    for verb in ["pass", "warn", "fail"] {
        target.put(format!("/v1/agent/check/{verb}/unknown"), "").await.is_error(404, text);
    }
    let body = r#"{"Status":"passing"}"#;
    target.put("/v1/agent/check/update/unknown", body).await.is_error(404, text);
}

async fn a_heartbeat_of_another_kind_of_check_is_500(target: Target) {
    let definition = json!({"CheckID": "no-ttl", "TCP": "127.0.0.1:1", "Interval": "10m"});
    target.register(json!({"Name": "no-ttl", "Check": definition})).await;
    let text = r#"CheckID "no-ttl" does not have associated TTL"#;
    target.put("/v1/agent/check/pass/no-ttl", "").await.is_error(500, text);
}

async fn output_alone_stays_out_of_the_catalog_until_the_next_registration(target: Target) {
    let definition = json!({"Name": "ttl-quiet", "Check": {"CheckID": "ttl-quiet", "TTL": "10m"}});
    target.register(definition.clone()).await;
    target.put("/v1/agent/check/pass/ttl-quiet?note=first", "").await.is_done();
    let before = target.get("/v1/health/checks/ttl-quiet").await.json();
    assert_eq!(before[0]["Output"], "first", "a new status takes the output along");
    target.put("/v1/agent/check/pass/ttl-quiet?note=second", "").await.is_done();
    becomes(&target, "ttl-quiet", "passing", "second").await;
    assert_eq!(target.get("/v1/health/checks/ttl-quiet").await.json(), before);
    target.register(definition).await;
    // A busy Consul synchronizes after it has answered the registration.
    let deadline = Instant::now() + Duration::from_secs(15);
    while target.get("/v1/health/checks/ttl-quiet").await.json()[0]["Output"] != "second" {
        assert!(Instant::now() < deadline, "a registration takes the output along");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn a_check_of_the_node_is_registered_and_removed(target: Target) {
    let definition =
        json!({"ID": "node-check", "Name": "of the node", "TTL": "10m", "Notes": "n", "Status": "passing"});
    target.put("/v1/agent/check/register", definition.to_string()).await.is_done();
    let shape = json!({
        "CheckID": "node-check", "Name": "of the node", "Notes": "n", "Status": "passing", "Type": "ttl",
        "Interval": "0s", "Timeout": "0s",
    });
    let local = check(&target, false, shape.clone());
    crate::pattern::compare(&local, &agent_check(&target, "node-check").await).unwrap();
    let of_node = target.get("/v1/health/node/conformance").await.json();
    let found = of_node.as_array().unwrap().iter().find(|one| one["CheckID"] == "node-check").cloned();
    crate::pattern::compare(&check(&target, true, shape), &found.expect("not in the catalog")).unwrap();
    target.put("/v1/agent/check/deregister/node-check", "").await.is_done();
    assert_eq!(agent_check(&target, "node-check").await, Value::Null);
    // The default id is the name.
    target
        .put("/v1/agent/check/register", r#"{"Name":"node-check-2","TTL":"10m","Status":"passing"}"#)
        .await
        .is_done();
    target.put("/v1/agent/check/deregister/node-check-2", "").await.is_done();
}

async fn a_check_joins_a_service(target: Target) {
    target.register(json!({"Name": "check-joins", "ID": "check-joins-1", "Tags": ["t"]})).await;
    let definition = json!({"ID": "joining", "Name": "joining", "ServiceID": "check-joins-1", "TTL": "10m"});
    target.put("/v1/agent/check/register", definition.to_string()).await.is_done();
    let shape = json!({
        "CheckID": "joining", "Name": "joining", "Status": "critical", "ServiceID": "check-joins-1",
        "ServiceName": "check-joins", "ServiceTags": ["t"], "Type": "ttl", "Interval": "0s", "Timeout": "0s",
    });
    target.get("/v1/health/checks/check-joins").await.has_json(&json!([check(&target, true, shape)]));
    // Registering it again keeps its status.
    target.put("/v1/agent/check/pass/joining?note=kept", "").await.is_done();
    target.put("/v1/agent/check/register", definition.to_string()).await.is_done();
    becomes(&target, "joining", "passing", "kept").await;
}

async fn a_bad_check_registration_is_refused(target: Target) {
    let path = "/v1/agent/check/register";
    for (status, body, text) in [
        (400, json!({}), "Missing check name"),
        (400, json!({"Name": "x", "TTL": "10s", "Status": "bogus"}), "Bad check status"),
        (400, json!({"Name": "x"}), "Invalid check: TTL must be > 0 for TTL checks"),
        (400, json!({"CheckID": "x"}), r#"Request decode failed: json: unknown field "CheckID""#),
    ] {
        target.put(path, body.to_string()).await.is_error(status, text);
    }
    if target.since(1, 22) {
        let body = json!({"Name": "x", "TTL": "10s", "ServiceID": "nope"});
        target.put(path, body.to_string()).await.is_error(404, r#"ServiceID "nope" does not exist"#);
    }
}

async fn deregistering_an_unknown_check_is_404(target: Target) {
    let text = r#"Unknown check ID "unknown". Ensure that the check ID is passed, not the check name."#;
    target.put("/v1/agent/check/deregister/unknown", "").await.is_error(404, text);
}

async fn a_tcp_check_follows_the_port(target: Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let definition = json!({"CheckID": "tcp", "TCP": address.to_string(), "Interval": "1s"});
    target.register(json!({"Name": "tcp", "Check": definition})).await;
    becomes(&target, "tcp", "passing", &format!("TCP connect {address}: Success")).await;
    let shape = agent_check(&target, "tcp").await;
    assert_eq!(shape["Type"], "tcp");
    drop(listener);
    becomes(&target, "tcp", "critical", &format!("dial tcp {address}: connect: connection refused")).await;
}

/// A health server that ends with this value.
struct Grpc {
    address: SocketAddr,
    reporter: HealthReporter,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Grpc {
    async fn start() -> Self {
        let (reporter, service) = health_reporter();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpListenerStream::new(listener);
        let server = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { address, reporter, server }
    }

    async fn set(&self, status: ServingStatus) {
        self.reporter.set_service_status("pkg.Svc", status).await;
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn watch_grpc(target: &Target, id: &str, grpc: String) {
    let definition = json!({"CheckID": id, "GRPC": grpc, "Interval": "1s"});
    target.register(json!({"Name": id, "Check": definition})).await;
}

async fn a_grpc_check_follows_the_health_service(target: Target) {
    let server = Grpc::start().await;
    server.set(ServingStatus::Serving).await;
    let checked = format!("{}/pkg.Svc", server.address);
    watch_grpc(&target, "grpc", checked.clone()).await;
    becomes(&target, "grpc", "passing", &format!("gRPC check {checked}: success")).await;
    let shape = agent_check(&target, "grpc").await;
    assert_eq!(shape["Type"], "grpc");
    if target.since(1, 22) {
        assert_eq!(shape["Interval"], "1s");
        assert_eq!(shape["Timeout"], "");
    }
    for (status, name) in [(ServingStatus::NotServing, "NOT_SERVING"), (ServingStatus::Unknown, "UNKNOWN")] {
        server.set(status).await;
        let output = if target.since(1, 22) {
            format!("gRPC {checked} serving status: {name}")
        } else {
            "gRPC application didn't report service healthy".to_owned()
        };
        becomes(&target, "grpc", "critical", &output).await;
    }
    server.set(ServingStatus::Serving).await;
    becomes(&target, "grpc", "passing", &format!("gRPC check {checked}: success")).await;
    // Without a service it checks the whole server.
    watch_grpc(&target, "grpc-whole", server.address.to_string()).await;
    becomes(&target, "grpc-whole", "passing", &format!("gRPC check {}: success", server.address)).await;
}

async fn a_grpc_check_says_what_is_wrong(target: Target) {
    let server = Grpc::start().await;
    watch_grpc(&target, "grpc-unknown", format!("{}/pkg.Nobody", server.address)).await;
    let output = "rpc error: code = NotFound desc = service not registered";
    becomes(&target, "grpc-unknown", "critical", output).await;

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    watch_grpc(&target, "grpc-closed", closed.to_string()).await;
    let refused = format!("dial tcp {closed}: connect: connection refused");
    let output = format!(
        "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: {refused}\""
    );
    becomes(&target, "grpc-closed", "critical", &output).await;

    // A server without a health service.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reflection_free = Server::builder().add_routes(tonic::service::Routes::default());
    let other = tokio::spawn(reflection_free.serve_with_incoming(TcpListenerStream::new(listener)));
    watch_grpc(&target, "grpc-other", address.to_string()).await;
    becomes(&target, "grpc-other", "critical", "rpc error: code = Unimplemented desc = ").await;
    other.abort();
}

async fn a_grpc_check_gives_up_after_its_timeout(target: Target) {
    // Accepts nothing: the connection stays in the backlog without a response.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let definition = json!({
        "CheckID": "grpc-silent", "Interval": "1s", "Timeout": "300ms",
        "GRPC": silent.local_addr().unwrap().to_string(),
    });
    target.register(json!({"Name": "grpc-silent", "Check": definition})).await;
    let output = "rpc error: code = DeadlineExceeded desc = context deadline exceeded while waiting for connections to become ready";
    becomes(&target, "grpc-silent", "critical", output).await;
}

async fn an_interval_below_a_second_is_raised(target: Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let definition =
        json!({"CheckID": "hasty", "TCP": listener.local_addr().unwrap().to_string(), "Interval": "10ms"});
    target.register(json!({"Name": "hasty", "Check": definition})).await;
    let deadline = sleep(Duration::from_millis(2500));
    tokio::pin!(deadline);
    let mut probes = 0;
    loop {
        tokio::select! {
            () = &mut deadline => break,
            accepted = listener.accept() => { accepted.unwrap(); probes += 1; }
        }
    }
    assert!((1..=4).contains(&probes), "{probes} probes in 2.5 s");
}
