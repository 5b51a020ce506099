//! Tokens, TLS and unix sockets, on a real Consul: the development agent has
//! none of them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use registry_client::{
    consul::{
        CheckSpec, CheckStatus, Client, ConsulResolver, Error, HealthEntry, HealthQuery, Registration,
        RegistrationState, ServiceSpec, TokenState, advertise_address,
    },
    resolve::{Resolver, dns::DnsResolver},
};
use tokio::time::timeout;

use crate::{
    consul::agents::{TEST_TIMEOUT, TestAgent, consul_binary, eventually, free_ports},
    log::Log,
};

const ACL: &str = r#"acl { enabled = true default_policy = "deny" tokens { master = "root" } }"#;

fn spec() -> ServiceSpec {
    ServiceSpec::new("web".parse().unwrap(), "127.0.0.1:5001".parse().unwrap(), CheckSpec::ttl())
}

/// Runs Consul's own command line; its output.
async fn consul(in_dir: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(consul_binary());
    command.current_dir(in_dir).args(arguments).envs(environment.iter().copied());
    let done = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "consul {arguments:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// An agent that denies by default.
struct Guarded {
    agent: TestAgent,
    dir: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let guarded = Self { agent: TestAgent::consul(ACL).await, dir: tempfile::tempdir().unwrap() };
        // The system of tokens is there a moment after the leader.
        let root = guarded.client("root");
        eventually("the root token works", || async { root.agent_self().await.is_ok() }).await;
        guarded
    }

    fn client(&self, token: &str) -> Client {
        Client::builder(&self.agent.addr.to_string()).token(token.to_owned()).build().unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let addr = self.agent.addr.to_string();
        let environment = [("CONSUL_HTTP_ADDR", addr.as_str()), ("CONSUL_HTTP_TOKEN", "root")];
        consul(self.dir.path(), &environment, arguments).await
    }

    /// A token with these rules; its secret.
    async fn token(&self, name: &str, rules: &str) -> String {
        self.run(&["acl", "policy", "create", "-name", name, "-rules", rules]).await;
        let made = self.run(&["acl", "token", "create", "-policy-name", name]).await;
        value(&made, "SecretID")
    }

    /// Deletes the token with this secret, as its expiry would.
    async fn delete(&self, secret: &str) {
        let accessor =
            value(&self.run(&["acl", "token", "read", "-self", "-token", secret]).await, "AccessorID");
        let newer = self.run(&["acl", "token", "delete", "-h"]).await.contains("-accessor-id");
        let flag = if newer { "-accessor-id" } else { "-id" };
        self.run(&["acl", "token", "delete", flag, &accessor]).await;
    }

    /// A client whose token is in this file.
    fn client_by(&self, file: &Path) -> Client {
        Client::builder(&self.agent.addr.to_string()).token_file(file).build().unwrap()
    }
}

/// What stands behind a name in the command line's output.
fn value(output: &str, name: &str) -> String {
    let line = output.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

const READER: &str = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
const WRITER: &str = r#"service "web" { policy = "write" } node_prefix "" { policy = "read" }"#;

#[tokio::test]
async fn a_registration_without_rights_says_which_and_goes_on_when_the_token_file_is_repaired() {
    let guarded = Guarded::start().await;
    let file = guarded.dir.path().join("token");
    let powerless = guarded.token("powerless", r#"key_prefix "x" { policy = "read" }"#).await;
    let able = guarded.token("able", WRITER).await;
    std::fs::write(&file, &powerless).unwrap();
    let client = guarded.client_by(&file);
    let registration = Registration::start(client.clone(), spec()).unwrap();
    let mut state = registration.state();
    let says = |state: &RegistrationState| {
        let words = format!("{state:?}");
        words.contains("give the token of CONSUL_HTTP_TOKEN a policy with service:write on `web`")
    };
    timeout(TEST_TIMEOUT, state.wait_for(says)).await.expect("it says so").unwrap();
    std::fs::write(&file, &able).unwrap();
    let registered = state.wait_for(|state| *state == RegistrationState::Registered);
    timeout(TEST_TIMEOUT, registered).await.expect("it registers").unwrap();
    let mut view = ConsulResolver::new(client).resolve(&"web".parse().unwrap());
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
    timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap();
}

#[tokio::test]
async fn a_token_that_was_deleted_keeps_the_set_and_is_said() {
    let guarded = Guarded::start().await;
    guarded.client("root").register(&spec()).await.unwrap();
    let reader = guarded.token("reader", READER).await;
    let mut view = ConsulResolver::new(guarded.client(&reader)).resolve(&"web".parse().unwrap());
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
    timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap();
    guarded.delete(&reader).await;
    // A streaming watch ends at once, a blocking one with its wait.
    let said = view.wait_for(|now| now.error.is_some());
    let now = timeout(2 * TEST_TIMEOUT, said).await.expect("it is said").unwrap().clone();
    assert!(now.error.as_deref().unwrap().contains("the token is unknown to Consul"), "{now:?}");
    assert_eq!(now.instances.unwrap().len(), 1, "the last good set is kept");
    let unknown = guarded.client(&reader).agent_self().await;
    assert!(matches!(unknown, Err(Error::Denied { token: TokenState::Unknown, .. })), "{unknown:?}");
    let none = Client::builder(&guarded.agent.addr.to_string()).build().unwrap();
    let missing = none.register(&spec()).await;
    assert!(matches!(missing, Err(Error::Denied { token: TokenState::Missing, .. })), "{missing:?}");
}

#[tokio::test]
async fn a_lost_token_keeps_the_set_and_one_in_its_file_is_taken_up() {
    let guarded = Guarded::start().await;
    guarded.client("root").register(&spec()).await.unwrap();
    let file = guarded.dir.path().join("token");
    let [first, second] = [guarded.token("first", READER).await, guarded.token("second", READER).await];
    std::fs::write(&file, &first).unwrap();
    let (log, _guard) = Log::begin();
    let mut view = ConsulResolver::new(guarded.client_by(&file)).resolve(&"web".parse().unwrap());
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
    timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap();
    guarded.delete(&first).await;
    let said = view.wait_for(|now| now.error.is_some());
    timeout(2 * TEST_TIMEOUT, said).await.expect("it is said").unwrap();
    std::fs::write(&file, &second).unwrap();
    let repaired = view.wait_for(|now| now.error.is_none());
    let now = timeout(2 * TEST_TIMEOUT, repaired).await.expect("it is repaired").unwrap().clone();
    assert_eq!(now.instances.unwrap().len(), 1);
    assert_eq!(log.lines("failed to read service `web`").len(), 1, "it is said once");
}

#[tokio::test]
async fn a_token_that_lost_its_right_keeps_the_set() {
    let guarded = Guarded::start().await;
    if !guarded.client("root").version().await.unwrap().at_least(1, 11) {
        // An older agent does not report filtered results.
        return;
    }
    guarded.client("root").register(&spec()).await.unwrap();
    let reader = guarded.token("reader", READER).await;
    let mut view = ConsulResolver::new(guarded.client(&reader)).resolve(&"web".parse().unwrap());
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
    timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap();
    let powerless = r#"key_prefix "x" { policy = "read" }"#;
    guarded.run(&["acl", "policy", "update", "-name", "reader", "-rules", powerless]).await;
    let said = view.wait_for(|now| now.error.is_some() || now.instances.as_ref().unwrap().is_empty());
    let now = timeout(2 * TEST_TIMEOUT, said).await.expect("it is said").unwrap().clone();
    assert!(now.error.as_deref().unwrap_or_default().contains("give the token"), "{now:?}");
    assert_eq!(now.instances.unwrap().len(), 1, "the last good set is kept");
}

#[tokio::test]
async fn an_instance_whose_token_expired_at_its_agent_is_registered_with_the_new_one() {
    let guarded = Guarded::start().await;
    let file = guarded.dir.path().join("token");
    let [first, second] = [guarded.token("first", WRITER).await, guarded.token("second", WRITER).await];
    std::fs::write(&file, &first).unwrap();
    let (log, _guard) = Log::begin();
    let registration = Registration::start(guarded.client_by(&file), spec()).unwrap();
    let root = guarded.client("root");
    let shown = || async {
        let entries = root.health("web", &HealthQuery::default()).await.unwrap();
        let status = |entry: &HealthEntry| entry.checks.iter().map(|check| check.status).max();
        entries.iter().filter_map(status).max()
    };
    eventually("it passes", || async { shown().await == Some(CheckStatus::Passing) }).await;
    // From now on the agent cannot sync it to the servers.
    guarded.delete(&first).await;
    std::fs::write(&file, &second).unwrap();
    registration.report(CheckStatus::Warning, "as the test says");
    let start = Instant::now();
    while shown().await != Some(CheckStatus::Warning) {
        assert!(start.elapsed() < 2 * TEST_TIMEOUT, "the catalog stays as it was: {:?}", log.lines("web"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("the servers show it {:?} after the token expired", start.elapsed());
    // None where the agent itself forgot the instance with its token.
    assert!(log.lines("may have expired").len() <= 1, "{:?}", log.lines("web"));
}

#[tokio::test]
async fn who_may_not_see_an_instance_is_notified() {
    let guarded = Guarded::start().await;
    let root = guarded.client("root");
    root.register(&spec()).await.unwrap();
    let powerless = guarded.token("powerless", r#"key_prefix "x" { policy = "read" }"#).await;
    let resolve = |client: Client| ConsulResolver::new(client).resolve(&"web".parse().unwrap());
    let anonymous = Client::builder(&guarded.agent.addr.to_string()).build().unwrap();
    let mut reported = Vec::new();
    for client in [anonymous, guarded.client(&powerless)] {
        let mut view = resolve(client);
        let answered = view.wait_for(|now| now.instances.is_some() || now.error.is_some());
        let now = timeout(TEST_TIMEOUT, answered).await.expect("it is answered").unwrap().clone();
        reported.push((now.instances.map(|found| found.len()), now.error.map(|words| words.to_string())));
    }
    // Before 1.11 an agent does not report filtered results.
    if !root.version().await.unwrap().at_least(1, 11) {
        assert_eq!(reported, [(Some(0), None), (Some(0), None)]);
        return;
    }
    let [(anonymous, guess), (lacking, refusal)] = &reported[..] else { panic!() };
    // Nobody may see nothing, and that may be all there is.
    assert_eq!((anonymous, lacking), (&Some(0), &None));
    let words = "to a token with service:read on `web` and node:read";
    assert!(guess.as_deref().is_some_and(|guess| guess.contains(words)), "{guess:?}");
    let words = "a policy with service:read on `web` and node:read";
    assert!(refusal.as_deref().is_some_and(|refusal| refusal.contains(words)), "{refusal:?}");
}

#[tokio::test]
async fn an_agent_is_reached_by_mutual_tls_and_a_foreign_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    consul(dir.path(), &[], &["tls", "ca", "create"]).await;
    consul(dir.path(), &[], &["tls", "cert", "create", "-server"]).await;
    consul(dir.path(), &[], &["tls", "cert", "create", "-client"]).await;
    let [https] = free_ports();
    let tls = format!(
        r#"ports {{ https = {https} }} verify_incoming_https = true ca_file = "{}" cert_file = "{}" key_file = "{}""#,
        path("consul-agent-ca.pem"),
        path("dc1-server-consul-0.pem"),
        path("dc1-server-consul-0-key.pem"),
    );
    let agent = TestAgent::consul(&tls).await;
    let trusting =
        Client::builder(&format!("https://localhost:{https}")).ca_file(path("consul-agent-ca.pem"));
    let (cert, key) = (path("dc1-client-consul-0.pem"), path("dc1-client-consul-0-key.pem"));
    let client = trusting.clone().client_identity(&cert, &key).build().unwrap();
    assert!(client.leader().await.unwrap().is_some());
    client.register(&spec()).await.unwrap();

    std::fs::create_dir(path("cas")).unwrap();
    std::fs::copy(path("consul-agent-ca.pem"), path("cas/ca.pem")).unwrap();
    let named = Client::builder(&format!("https://localhost:{https}")).ca_dir(path("cas"));
    let named = named.client_identity(&cert, &key).tls_server_name("server.dc1.consul").build().unwrap();
    assert!(named.leader().await.unwrap().is_some());

    let faults = [
        (
            Client::builder(&format!("https://localhost:{https}")).client_identity(&cert, &key),
            "CONSUL_CACERT",
        ),
        (
            trusting.clone().client_identity(&cert, &key).tls_server_name("other.example"),
            "CONSUL_TLS_SERVER_NAME",
        ),
        (trusting, "CONSUL_CLIENT_CERT"),
        (Client::builder(&format!("https://{}", agent.addr)).skip_verify(true), "CONSUL_HTTP_SSL"),
        (Client::builder(&format!("localhost:{https}")), "HTTP request to an HTTPS server"),
    ];
    for (builder, words) in faults {
        let error = builder.build().unwrap().leader().await.unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let believing = Client::builder(&format!("https://localhost:{https}")).skip_verify(true);
    assert!(believing.client_identity(&cert, &key).build().unwrap().leader().await.is_ok());
}

#[tokio::test]
async fn an_agent_is_reached_by_its_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("consul.sock");
    let agent =
        TestAgent::consul(&format!(r#"addresses {{ http = "127.0.0.1 unix://{}" }}"#, socket.display()))
            .await;
    let client = Client::builder(&format!("unix://{}", socket.display())).build().unwrap();
    let registration = Registration::start(client.clone(), spec()).unwrap();
    let mut state = registration.state();
    let registered = state.wait_for(|state| *state == RegistrationState::Registered);
    timeout(TEST_TIMEOUT, registered).await.expect("it registers").unwrap();
    assert!(agent.client().service(&spec().id).await.is_ok());
    assert!(advertise_address(&client).await.unwrap().is_loopback());
    let nowhere = Client::builder("unix:///does/not/exist.sock").build().unwrap().leader().await.unwrap_err();
    assert!(nowhere.to_string().contains("unix:///does/not/exist.sock"), "{nowhere}");
}

#[tokio::test]
async fn srv_records_of_consuls_own_dns_are_instances() {
    let [dns] = free_ports();
    let agent = TestAgent::consul(&format!("ports {{ dns = {dns} }}")).await;
    let mut spec = spec();
    spec.weights.passing = 7;
    let _registration = Registration::start(agent.client(), spec).unwrap();
    let resolver = DnsResolver::srv("{service}.service.consul.").unwrap();
    let resolver = resolver.with_servers([([127, 0, 0, 1], dns).into()]);
    let often = Duration::from_millis(100);
    let mut view = resolver.with_interval(often, often).resolve(&"web".parse().unwrap());
    let found = view.wait_for(|now| now.instances.as_ref().is_some_and(|found| found.len() == 1));
    let found = timeout(TEST_TIMEOUT, found).await.expect("it is found").unwrap().instances.clone().unwrap();
    assert_eq!((found[0].address.to_string().as_str(), found[0].weight), ("127.0.0.1:5001", 7));
}
