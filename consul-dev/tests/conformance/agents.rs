//! The agents that the cases run on.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::http::{Client, Request, Response};

/// An agent under test, with its version.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    client: Client,
    pub(crate) description: String,
    /// The version of Consul that it reports.
    pub(crate) version: (u64, u64, u64),
}

impl Target {
    pub(crate) async fn new(url: String, description: &str) -> Self {
        let client = Client::new(&url);
        let response = client.send(Request::get("/v1/agent/self")).await;
        let version =
            response.json()["Config"]["Version"].as_str().expect("an agent without a version").to_owned();
        let mut parts = version.split('.').map(|part| part.parse::<u64>().expect("not a plain version"));
        let mut part = || parts.next().expect("a version has three parts");
        let numbers = (part(), part(), part());
        println!("conformance: running on {description} at {url}, Consul {version}");
        let client = if numbers < (1, 22, 0) { client.of_an_old_agent() } else { client };
        Self { client, description: format!("{description} (Consul {version})"), version: numbers }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn get(&self, path: impl Into<String>) -> Response {
        self.client.send(Request::get(path)).await
    }

    pub(crate) async fn put(&self, path: impl Into<String>, body: impl Into<Vec<u8>>) -> Response {
        self.client.send(Request::put(path, body)).await
    }

    pub(crate) async fn delete(&self, path: impl Into<String>) -> Response {
        self.client.send(Request::new("DELETE", path)).await
    }

    /// Registers a service, which must succeed.
    pub(crate) async fn register(&self, definition: serde_json::Value) {
        self.put("/v1/agent/service/register", definition.to_string()).await.is_done();
    }

    /// Deregisters a service, which must succeed.
    pub(crate) async fn deregister(&self, id: &str) {
        self.put(format!("/v1/agent/service/deregister/{id}"), "").await.is_done();
    }

    pub(crate) fn since(&self, major: u64, minor: u64) -> bool {
        self.version >= (major, minor, 0)
    }
}

/// A `consul agent -dev` that ends with this value.
#[derive(Debug)]
pub(crate) struct RealConsul {
    process: Child,
    http: u16,
    version: String,
    binary: PathBuf,
    _dir: TempDir,
}

impl RealConsul {
    /// Starts an agent on free ports and waits until it is the leader.
    pub(crate) async fn start() -> Self {
        let binary = find_consul();
        let version = version_of(&binary);
        // Another process may take a port before Consul starts; then other ports are tried.
        for _ in 0..5 {
            if let Some(started) = Self::try_start(&binary, &version).await {
                return started;
            }
        }
        panic!("{} did not start in five tries", binary.display());
    }

    async fn try_start(binary: &Path, version: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("no temporary directory");
        let [http, lan, wan, server] = free_ports();
        let log_path = dir.path().join("consul.log");
        let log = File::create(&log_path).expect("no log file");
        let mut command = Command::new(binary);
        command
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "conformance"])
            .args(["-http-port", &http.to_string(), "-serf-lan-port", &lan.to_string()])
            .args(["-serf-wan-port", &wan.to_string(), "-server-port", &server.to_string()])
            .args(["-dns-port", "-1", "-grpc-port", "-1"]);
        if help_of(binary).contains("-grpc-tls-port") {
            command.args(["-grpc-tls-port", "-1"]);
        }
        let process = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("no second handle of the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {}: {error}", binary.display()));
        let mut started =
            Self { process, http, version: version.to_owned(), binary: binary.to_owned(), _dir: dir };
        if started.wait_for_leader().await {
            return Some(started);
        }
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        println!("Consul did not come up; the end of its log:\n{}", tail(&log));
        None
    }

    async fn wait_for_leader(&mut self) -> bool {
        let client = Client::new(&self.url());
        for _ in 0..300 {
            if self.process.try_wait().expect("our own child").is_some() {
                return false;
            }
            let leader = client.try_send(Request::get("/v1/status/leader")).await;
            let wait_for_leader = leader.is_some_and(|reply| reply.status == 200 && reply.text().len() > 2);
            // The leader's own node is registered a moment after its election.
            if wait_for_leader {
                let nodes = client.try_send(Request::get("/v1/health/node/conformance")).await;
                if nodes.is_some_and(|reply| reply.text().contains("serfHealth")) {
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    pub(crate) fn description(&self) -> String {
        format!("{} ({})", self.version, self.binary.display())
    }
}

impl Drop for RealConsul {
    fn drop(&mut self) {
        // The process may be gone already, and an error has no consequence.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The Consul to compare with.
#[allow(clippy::disallowed_methods, reason = "a test is configured by its environment")]
fn find_consul() -> PathBuf {
    if let Some(given) = std::env::var_os("CONSUL_BIN") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "CONSUL_BIN is {}, where there is no file", given.display());
        return given;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("consul"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let tools = std::env::var_os("CONSORT_TOOLS")
        .map(PathBuf::from)
        .or_else(|| cache.map(|cache| cache.join("consort/tools/bin")));
    let kept = tools.into_iter().map(|dir| dir.join("consul"));
    on_path.chain(kept).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("no Consul to compare with: run `cargo xtask setup`, or set CONSUL_BIN to a consul binary")
    })
}

fn output_of(binary: &Path, arguments: &[&str]) -> String {
    let output = Command::new(binary).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("could not run {}: {error}", binary.display()));
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn version_of(binary: &Path) -> String {
    output_of(binary, &["version"]).lines().next().unwrap_or("Consul of an unknown version").to_owned()
}

fn help_of(binary: &Path) -> String {
    output_of(binary, &["agent", "-help"])
}

/// Free ports below the range of outgoing connections.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut found = Vec::new();
    while found.len() < N {
        let port = fastrand::u16(20_000..32_000);
        let free =
            TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if free && !found.contains(&port) {
            found.push(port);
        }
    }
    std::array::from_fn(|at| found[at])
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
