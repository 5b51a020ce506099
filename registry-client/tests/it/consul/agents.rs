//! The registries that the same cases run against: the development agent and
//! a real Consul.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use registry_client::consul::{Client, HealthQuery};
use tokio::{net::TcpListener, process::Child, time::sleep};

/// Far longer than anything here takes.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs each case on the development agent and on a real Consul.
macro_rules! on_each_agent {
    ($($case:ident),* $(,)?) => {
        mod on_consul_dev {
            $(#[tokio::test]
            async fn $case() {
                super::$case($crate::consul::agents::TestAgent::development().await).await;
            })*
        }
        mod on_consul {
            $(#[tokio::test]
            async fn $case() {
                super::$case($crate::consul::agents::TestAgent::consul("").await).await;
            })*
        }
    };
}
pub(crate) use on_each_agent;

/// A running agent, stopped on drop.
pub(crate) struct TestAgent {
    pub(crate) addr: SocketAddr,
    running: Option<Running>,
    kind: Kind,
}

enum Running {
    Development(consul_dev::Agent),
    Consul { process: Child, log: tempfile::TempDir },
}

#[derive(Clone)]
enum Kind {
    Development,
    Consul { arguments: Vec<String>, server: u16, _data: Option<Arc<tempfile::TempDir>> },
}

impl TestAgent {
    pub(crate) async fn development() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        Self::begin(addr, Kind::Development).await
    }

    /// A real Consul, with `hcl` added to its configuration.
    pub(crate) async fn consul(hcl: &str) -> Self {
        let ports = free_ports();
        let kind = Kind::Consul { arguments: arguments("-dev", ports, hcl), server: ports[1], _data: None };
        Self::begin(([127, 0, 0, 1], ports[0]).into(), kind).await
    }

    /// Three servers of a real Consul, with a leader.
    pub(crate) async fn cluster() -> [Self; 3] {
        let data = Arc::new(tempfile::tempdir().unwrap());
        let ports: [u16; 9] = free_ports();
        let join: Vec<String> = (0..3).map(|i| format!("\"127.0.0.1:{}\"", ports[3 * i + 2])).collect();
        let mut servers = std::array::from_fn(|i| {
            let dir = data.path().join(i.to_string());
            let hcl = format!(
                r#"server = true bootstrap_expect = 3 node_name = "n{i}" disable_host_node_id = true
                data_dir = "{}" retry_join = [{}] performance {{ raft_multiplier = 1 }}"#,
                dir.display(),
                join.join(", ")
            );
            let ports = [ports[3 * i], ports[3 * i + 1], ports[3 * i + 2]];
            let arguments = arguments("-ui=false", ports, &hcl);
            let kind = Kind::Consul { arguments, server: ports[1], _data: Some(Arc::clone(&data)) };
            Self { addr: ([127, 0, 0, 1], ports[0]).into(), running: None, kind }
        });
        for server in &mut servers {
            server.launch().await;
        }
        for server in &mut servers {
            server.leads().await;
        }
        servers
    }

    /// Two datacenters of a real Consul, `dc1` and `dc2`, that reach each other.
    pub(crate) async fn datacenters() -> [Self; 2] {
        let ports: [u16; 8] = free_ports();
        let wan = |i: usize| ports[4 * i + 3];
        let mut agents = std::array::from_fn(|i| {
            let hcl = format!(
                r#"datacenter = "dc{}" retry_join_wan = ["127.0.0.1:{}"] retry_interval_wan = "1s"
                ports {{ serf_wan = {} }}"#,
                i + 1,
                wan(1 - i),
                wan(i)
            );
            let ports = [ports[4 * i], ports[4 * i + 1], ports[4 * i + 2]];
            let kind =
                Kind::Consul { arguments: arguments("-dev", ports, &hcl), server: ports[1], _data: None };
            Self { addr: ([127, 0, 0, 1], ports[0]).into(), running: None, kind }
        });
        for agent in &mut agents {
            agent.start().await;
        }
        for (i, agent) in agents.iter().enumerate() {
            let mut there = HealthQuery::default();
            there.datacenter = Some(format!("dc{}", 2 - i));
            let client = agent.client();
            let joined = || async { client.health("consul", &there).await.is_ok_and(|all| !all.is_empty()) };
            eventually("the other datacenter answers", joined).await;
        }
        agents
    }

    async fn begin(addr: SocketAddr, kind: Kind) -> Self {
        let mut agent = Self { addr, running: None, kind };
        agent.start().await;
        match agent.client().version().await {
            Ok(version) => println!("on {version}"),
            Err(e) => println!("on an agent that does not report its version: {e}"),
        }
        agent
    }

    /// Starts it again, at the same address and with nothing registered;
    /// returns once it has a leader.
    pub(crate) async fn start(&mut self) {
        self.launch().await;
        self.leads().await;
    }

    async fn launch(&mut self) {
        self.running = Some(match &self.kind {
            Kind::Development => {
                let agent = consul_dev::Agent::bind(self.addr, consul_dev::Options::default()).await;
                Running::Development(agent.expect("the port of the agent before is free"))
            }
            Kind::Consul { arguments, .. } => {
                let log = tempfile::tempdir().unwrap();
                let file = std::fs::File::create(log.path().join("log")).unwrap();
                let errors = file.try_clone().unwrap();
                let process = tokio::process::Command::new(consul_binary())
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stdout(file)
                    .stderr(errors)
                    .kill_on_drop(true)
                    .spawn()
                    .expect("consul starts");
                Running::Consul { process, log }
            }
        });
    }

    async fn leads(&mut self) {
        let client = self.client();
        let start = Instant::now();
        while !client.leader().await.is_ok_and(|leader| leader.is_some()) {
            let gone =
                self.exited().or_else(|| (start.elapsed() > TEST_TIMEOUT).then(|| "no leader".to_owned()));
            assert!(gone.is_none(), "the agent did not start: {}", gone.unwrap_or_default());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a Consul that ended wrote.
    fn exited(&mut self) -> Option<String> {
        let Some(Running::Consul { process, log }) = &mut self.running else { return None };
        let status = process.try_wait().unwrap()?;
        Some(format!("{status}: {}", std::fs::read_to_string(log.path().join("log")).unwrap()))
    }

    /// Kills it; what was registered is forgotten.
    pub(crate) async fn stop(&mut self) {
        match self.running.take() {
            Some(Running::Development(agent)) => agent.stop().await,
            Some(Running::Consul { mut process, .. }) => process.kill().await.unwrap(),
            None => {}
        }
    }

    /// Returns whether this server's own address is `rpc`.
    pub(crate) fn serves(&self, rpc: &str) -> bool {
        matches!(&self.kind, Kind::Consul { server, .. } if rpc == format!("127.0.0.1:{server}"))
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder(&self.addr.to_string()).build().unwrap()
    }
}

/// The command line of an agent that keeps to this machine.
fn arguments(mode: &str, [http, server, serf]: [u16; 3], hcl: &str) -> Vec<String> {
    let version = std::process::Command::new(consul_binary()).arg("version").output();
    let version = String::from_utf8(version.expect("consul runs").stdout).unwrap();
    // Before 1.14 there is no such port to close.
    let old = (2..14).any(|minor| version.contains(&format!("Consul v1.{minor}.")));
    let grpc_tls = if old { "" } else { "grpc_tls = -1" };
    let ports = format!(
        "ports {{ http = {http} server = {server} serf_lan = {serf} serf_wan = -1 dns = -1 grpc = -1 {grpc_tls} }}"
    );
    let listen = ["agent", mode, "-bind", "127.0.0.1", "-client", "127.0.0.1", "-log-level", "warn"];
    listen.into_iter().chain(["-hcl", &ports, "-hcl", hcl]).map(str::to_owned).collect()
}

/// `CONSUL_BIN`, else the one on PATH, else what `cargo xtask setup` keeps.
#[allow(clippy::disallowed_methods, reason = "tests have no other way to be configured")]
pub(crate) fn consul_binary() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|dir| dir.join("consul"))
            .find(|file| file.is_file())
    };
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let kept = || {
        set("CONSORT_TOOLS").or_else(|| Some(cache()?.join("consort/tools"))).map(|d| d.join("bin/consul"))
    };
    set("CONSUL_BIN")
        .or_else(on_path)
        .or_else(|| kept().filter(|file| file.is_file()))
        .expect("this test needs a real Consul: run `cargo xtask setup`")
}

/// Free ports, below those of outgoing connections.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    std::array::from_fn(|_| {
        loop {
            let port = fastrand::u16(20_000..32_000);
            let at = ("127.0.0.1", port);
            if let (Ok(tcp), Ok(udp)) = (std::net::TcpListener::bind(at), std::net::UdpSocket::bind(at)) {
                held.push((tcp, udp));
                return port;
            }
        }
    })
}

/// Waits until `holds`; says how long that took.
#[track_caller]
pub(crate) fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> impl Future<Output = Duration> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !holds().await {
            assert!(start.elapsed() < TEST_TIMEOUT, "{caller}: not within {TEST_TIMEOUT:?}: {what}");
            sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    }
}
