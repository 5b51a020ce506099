//! The choice of the registry, and the start of a new one.

use std::{
    ffi::OsString,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use consul_dev::{Agent, Options};
use registry_client::consul::{self, HealthQuery};
use tokio::{
    process::Command,
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{
    cli::{DEFAULT_PROGRAM, RegistrySpec},
    discover::{client, url},
    services::Service,
    state::StatePaths,
    up::{
        children::{Children, Event, Program, tail},
        ports::Ports,
        shutdown::Shutdown,
    },
};

/// The name of a registry's process, for people and for its log.
pub(crate) const NAME: &str = "consul";
/// The node names of registries that a `mesh up` started begin with this.
const NODE_PREFIX: &str = "consort-up-";
/// The default address of a Consul on this machine.
const DEFAULT_URL: &str = "http://127.0.0.1:8500";
/// The limit on the response of the process at the default address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The limit on a new Consul's leader election; it takes two seconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The chosen registry; nothing is started yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A running Consul.
    Running {
        url: String,
    },
    /// A Consul to start.
    Consul {
        program: PathBuf,
        version: Version,
    },
    Embedded,
}

impl Choice {
    /// Chooses the registry. `address` is `CONSUL_HTTP_ADDR`, `program` the
    /// Consul that could be started.
    ///
    /// # Errors
    /// When the specified registry is not available. It is never silently
    /// replaced by another.
    pub(crate) async fn make(spec: &RegistrySpec, address: Option<&str>, program: &Path) -> Result<Self> {
        match (spec, address) {
            (RegistrySpec::Embedded, _) => Ok(Self::Embedded),
            (RegistrySpec::At(url), _) => Self::running(url, "--registry").await,
            (RegistrySpec::Auto, Some(address)) => Self::running(&url(address), "CONSUL_HTTP_ADDR").await,
            (RegistrySpec::Auto, None) if foreign_consul(DEFAULT_URL).await => {
                Ok(Self::Running { url: DEFAULT_URL.to_owned() })
            }
            (RegistrySpec::Auto, None) => match Self::program(program).await {
                Err(_) if program == Path::new(DEFAULT_PROGRAM) => Ok(Self::Embedded),
                chosen => chosen.context("the Consul that CONSUL_BIN names cannot be started"),
            },
            (RegistrySpec::Consul, _) => Self::program(program).await.context(
                "no Consul can be started: put one on PATH, name it in CONSUL_BIN, or use --registry embedded",
            ),
        }
    }

    async fn running(url: &str, named_by: &str) -> Result<Self> {
        // The same query as every service makes, so that a token without that
        // permission is rejected here and not in each of them.
        let response = client(url)?.health(Service::Cart.name(), &HealthQuery::default()).await;
        response.with_context(|| format!("the registry that {named_by} names cannot be used"))?;
        Ok(Self::Running { url: url.to_owned() })
    }

    async fn program(program: &Path) -> Result<Self> {
        Ok(Self::Consul { program: program.to_owned(), version: Version::of(program).await? })
    }

    /// Starts the registry, unless it runs already, and waits until it
    /// responds. Restarts are reported to `events` under the name [`NAME`].
    ///
    /// # Errors
    /// When it does not start; the error quotes its last log lines.
    pub(crate) async fn start(
        self,
        ports: &Ports,
        files: &StatePaths,
        events: &mpsc::Sender<Event>,
        shutdown: &Shutdown,
    ) -> Result<Registry> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.registry()));
        let node = format!("{NODE_PREFIX}{}", std::process::id());
        match self {
            Self::Running { url } => Ok(Registry {
                kind: "was already running".into(),
                url,
                dns: None,
                process: RegistryProcess::Elsewhere,
            }),
            Self::Embedded => {
                let agent = Agent::bind(local, Options::default().node_name(node)).await;
                let agent =
                    agent.with_context(|| format!("could not start the embedded registry on {local}"))?;
                let kind = "embedded, for development only".into();
                Ok(Registry { url: agent.url(), kind, dns: None, process: RegistryProcess::Embedded(agent) })
            }
            Self::Consul { program, version } => {
                let log = files.log(NAME);
                let tethered = Program {
                    name: NAME.to_owned(),
                    path: std::env::current_exe().context("could not find this program's path")?,
                    args: arguments(&program, ports, &node, version),
                    env: Vec::new(),
                    log,
                };
                start_consul(tethered, (local, ports.consul().dns), version, events, shutdown).await
            }
        }
    }
}

/// Starts `program`, a Consul of that version, and waits until it leads.
async fn start_consul(
    program: Program,
    (local, dns): (SocketAddr, u16),
    version: Version,
    events: &mpsc::Sender<Event>,
    shutdown: &Shutdown,
) -> Result<Registry> {
    let log = program.log.clone();
    // A shutdown of its own, because it ends after every process that
    // deregisters from it.
    let own_shutdown = Shutdown::default();
    let registry = Registry {
        url: format!("http://{local}"),
        kind: format!("consul agent -dev, {version}"),
        dns: Some(dns),
        process: RegistryProcess::Child {
            children: Children::start(vec![program], events, &own_shutdown),
            shutdown: own_shutdown,
        },
    };
    let leader = tokio::select! {
        leader = wait_for_leader(&registry.url) => leader,
        () = shutdown.requested() => Ok(()),
    };
    if let Err(error) = leader {
        registry.stop().await;
        bail!("{error:#}; its last lines ({}):\n{}", log.display(), tail(&log, 8));
    }
    Ok(registry)
}

/// The registry of a running `mesh up`.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) url: String,
    /// The kind of registry, for people.
    pub(crate) kind: String,
    /// The DNS port on loopback; `None` when none is known.
    pub(crate) dns: Option<u16>,
    process: RegistryProcess,
}

#[derive(Debug)]
enum RegistryProcess {
    Elsewhere,
    Embedded(Agent),
    Child { children: Children, shutdown: Shutdown },
}

impl Registry {
    /// The URL of the web UI.
    pub(crate) fn ui(&self) -> String {
        format!("{}/ui/", self.url)
    }

    /// Stops the registry, if `mesh up` started it.
    pub(crate) async fn stop(self) {
        match self.process {
            RegistryProcess::Elsewhere => {}
            RegistryProcess::Embedded(agent) => agent.stop().await,
            RegistryProcess::Child { mut children, shutdown } => {
                shutdown.begin();
                children.wait_all().await;
            }
        }
    }
}

/// Returns whether a Consul responds there that is not the registry of another
/// `mesh up`: sharing that one would mix two shops.
async fn foreign_consul(url: &str) -> bool {
    let Ok(client) = client(url) else { return false };
    match timeout(PROBE_TIMEOUT, client.agent_self()).await {
        Ok(Ok(agent)) => !agent.config.node_name.starts_with(NODE_PREFIX),
        // It has ACLs, so `mesh up` did not start it.
        Ok(Err(consul::Error::Denied { .. })) => true,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Waits until the Consul at `url` has a leader.
async fn wait_for_leader(url: &str) -> Result<()> {
    let client = client(url)?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        // An agent sends no event when it is ready, so it is polled.
        match client.leader().await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            Ok(None) => bail!("Consul at {url} has no leader after {START_TIMEOUT:?}"),
            Err(error) => return Err(error).context("Consul did not come up"),
        }
    }
}

/// A Consul's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// The version that `program` prints.
    async fn of(program: &Path) -> Result<Self> {
        let output = Command::new(program).arg("version").output().await;
        let output = output.with_context(|| format!("could not run {}", program.display()))?;
        String::from_utf8_lossy(&output.stdout).parse().map_err(anyhow::Error::msg)
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads what `consul version` prints, which begins with `Consul v1.22.5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        };
        let parse = || {
            let mut parts = text.strip_prefix("Consul v")?.split('.').map(number);
            Some(Self(parts.next()??, parts.next()??, parts.next()??))
        };
        parse().ok_or_else(|| {
            format!("`{}` is not the output of `consul version`", text.lines().next().unwrap_or_default())
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The arguments `tether -- consul agent -dev …`: the agent must not outlive
/// this process.
fn arguments(program: &Path, ports: &Ports, node: &str, version: Version) -> Vec<OsString> {
    let consul = ports.consul();
    let mut args: Vec<OsString> = vec!["tether".into(), "--".into(), program.into()];
    args.extend(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"].map(OsString::from));
    let mut set = |flag: &str, value: String| args.extend([OsString::from(flag), value.into()]);
    set("-node", node.to_owned());
    set("-http-port", ports.registry().to_string());
    set("-grpc-port", consul.grpc.to_string());
    set("-serf-lan-port", consul.serf_lan.to_string());
    set("-serf-wan-port", consul.serf_wan.to_string());
    set("-server-port", consul.server.to_string());
    set("-dns-port", consul.dns.to_string());
    // The setting came with 1.14; an older one does not start with it.
    if version >= Version(1, 14, 0) {
        set("-hcl", format!("ports {{ grpc_tls = {} }}", consul.grpc_tls));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consuls_version_is_read_from_what_it_prints() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert_eq!(version("Consul v1.22.5\nRevision x\n"), Version(1, 22, 5));
        assert_eq!(version("Consul v1.8.7+dfsg1\n"), Version(1, 8, 7));
        assert!(version("Consul v1.9.0-dev") < Version(1, 14, 0));
        assert!("Python 3.11".parse::<Version>().is_err());
    }

    #[test]
    fn a_registry_spec_is_a_word_or_a_url() {
        assert_eq!("auto".parse(), Ok(RegistrySpec::Auto));
        assert_eq!("http://10.0.0.1:8500/".parse(), Ok(RegistrySpec::At("http://10.0.0.1:8500".into())));
        assert!("cosul".parse::<RegistrySpec>().unwrap_err().contains("embedded"));
    }
}
