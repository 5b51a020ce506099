//! Which registry `mesh up` uses, and the one it starts.

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
    found::{client, url},
    services::Service,
    state::Files,
    up::{
        children::{Children, Event, Program, tail},
        ports::Ports,
        stop::Stop,
    },
};

/// The name of a registry's process, for people and for its log.
pub(crate) const NAME: &str = "consul";
/// The node names of registries that a `mesh up` started begin with this.
const OURS: &str = "consort-up-";
/// Where a Consul on this machine answers unless told otherwise.
const USUAL: &str = "http://127.0.0.1:8500";
/// The Consul that is started unless another is named.
pub(crate) const USUAL_PROGRAM: &str = "consul";
/// How long whatever listens at the usual address may take to say what it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long a Consul of ours may take until it leads; it takes two seconds.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Which registry is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A running Consul, else one of ours.
    Auto,
    /// The embedded one.
    Embedded,
    /// `consul agent -dev`, started by us.
    Consul,
    /// The Consul that runs there.
    At(String),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "embedded" => Ok(Self::Embedded),
            "consul" => Ok(Self::Consul),
            url if url.contains("://") => Ok(Self::At(url.trim_end_matches('/').to_owned())),
            _ => Err("not auto, embedded, consul or a URL such as http://127.0.0.1:8500".to_owned()),
        }
    }
}

/// Which registry it will be; nothing is started yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One that runs.
    Running {
        url: String,
    },
    /// The program to start.
    Consul {
        program: PathBuf,
        version: Version,
    },
    Embedded,
}

impl Choice {
    /// Chooses. `address` is `CONSUL_HTTP_ADDR`, `program` the Consul that could
    /// be started.
    ///
    /// # Errors
    /// When the one that is wanted cannot be had. A registry that somebody
    /// names is never replaced by another in silence.
    pub(crate) async fn make(wanted: &Wanted, address: Option<&str>, program: &Path) -> Result<Self> {
        match (wanted, address) {
            (Wanted::Embedded, _) => Ok(Self::Embedded),
            (Wanted::At(url), _) => Self::running(url, "--registry").await,
            (Wanted::Auto, Some(address)) => Self::running(&url(address), "CONSUL_HTTP_ADDR").await,
            (Wanted::Auto, None) if foreign_consul(USUAL).await => {
                Ok(Self::Running { url: USUAL.to_owned() })
            }
            (Wanted::Auto, None) => match Self::program(program).await {
                Err(_) if program == Path::new(USUAL_PROGRAM) => Ok(Self::Embedded),
                chosen => chosen.context("the Consul that CONSUL_BIN names cannot be started"),
            },
            (Wanted::Consul, _) => Self::program(program).await.context(
                "no Consul can be started: put one on PATH, name it in CONSUL_BIN, or use --registry embedded",
            ),
        }
    }

    async fn running(url: &str, named_by: &str) -> Result<Self> {
        // Asked for what every service will ask, so that a token without the
        // right to it is refused here and not by each of them.
        let answer = client(url)?.health(Service::Cart.name(), &HealthQuery::default()).await;
        answer.with_context(|| format!("the registry that {named_by} names cannot be used"))?;
        Ok(Self::Running { url: url.to_owned() })
    }

    async fn program(program: &Path) -> Result<Self> {
        Ok(Self::Consul { program: program.to_owned(), version: Version::of(program).await? })
    }

    /// Starts it, if it is to be started, and waits until it answers. Its
    /// restarts are told to `events` under the name [`NAME`].
    ///
    /// # Errors
    /// When it does not come up; says what it wrote last.
    pub(crate) async fn start(
        self,
        ports: &Ports,
        files: &Files,
        events: &mpsc::Sender<Event>,
        stop: &Stop,
    ) -> Result<Registry> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.registry()));
        let node = format!("{OURS}{}", std::process::id());
        match self {
            Self::Running { url } => {
                Ok(Registry { kind: "ran before".into(), url, dns: None, process: Running::Elsewhere })
            }
            Self::Embedded => {
                let agent = Agent::bind(local, Options::default().node_name(node)).await;
                let agent =
                    agent.with_context(|| format!("could not start the embedded registry on {local}"))?;
                let kind = "embedded, for development only".into();
                Ok(Registry { url: agent.url(), kind, dns: None, process: Running::Embedded(agent) })
            }
            Self::Consul { program, version } => {
                let log = files.log(NAME);
                let tethered = Program {
                    name: NAME.to_owned(),
                    path: std::env::current_exe().context("could not tell which program this is")?,
                    args: arguments(&program, ports, &node, version),
                    env: Vec::new(),
                    log,
                };
                start_consul(tethered, (local, ports.consul().dns), version, events, stop).await
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
    stop: &Stop,
) -> Result<Registry> {
    let log = program.log.clone();
    // Its own, because it ends after everything that deregisters from it.
    let own_stop = Stop::default();
    let registry = Registry {
        url: format!("http://{local}"),
        kind: format!("consul agent -dev, {version}"),
        dns: Some(dns),
        process: Running::Child {
            children: Children::start(vec![program], events, &own_stop),
            stop: own_stop,
        },
    };
    let led = tokio::select! {
        led = leads(&registry.url) => led,
        () = stop.asked() => Ok(()),
    };
    if let Err(error) = led {
        registry.stop().await;
        bail!("{error:#}; its last lines ({}):\n{}", log.display(), tail(&log, 8));
    }
    Ok(registry)
}

/// The registry of a running `mesh up`.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) url: String,
    /// What it is, for people.
    pub(crate) kind: String,
    /// The port on loopback where it answers DNS; `None` when it is not known to.
    pub(crate) dns: Option<u16>,
    process: Running,
}

#[derive(Debug)]
enum Running {
    Elsewhere,
    Embedded(Agent),
    Child { children: Children, stop: Stop },
}

impl Registry {
    /// Its web pages.
    pub(crate) fn ui(&self) -> String {
        format!("{}/ui/", self.url)
    }

    /// Stops it, if it is ours.
    pub(crate) async fn stop(self) {
        match self.process {
            Running::Elsewhere => {}
            Running::Embedded(agent) => agent.stop().await,
            Running::Child { mut children, stop } => {
                stop.begin();
                children.ended().await;
            }
        }
    }
}

/// Whether a Consul answers there that is not the registry of another `mesh
/// up`: sharing that one would mix two shops.
async fn foreign_consul(url: &str) -> bool {
    let Ok(client) = client(url) else { return false };
    match timeout(ANSWER_LIMIT, client.agent_self()).await {
        Ok(Ok(agent)) => !agent.config.node_name.starts_with(OURS),
        // It has access control: surely not one of ours.
        Ok(Err(consul::Error::Denied { .. })) => true,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Waits until the Consul at `url` has a leader.
async fn leads(url: &str) -> Result<()> {
    let client = client(url)?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        // An agent tells nobody when it is ready, so it is asked.
        match client.leader().await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            Ok(None) => bail!("Consul at {url} has no leader after {START_LIMIT:?}"),
            Err(error) => return Err(error).context("Consul did not come up"),
        }
    }
}

/// A Consul's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// What `program` says it is.
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
        parse()
            .ok_or_else(|| format!("`{}` is not what a Consul says", text.lines().next().unwrap_or_default()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// `mesh tether -- consul agent -dev …`: the agent must not outlive us.
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
    fn what_is_wanted_is_a_word_or_a_url() {
        assert_eq!("auto".parse(), Ok(Wanted::Auto));
        assert_eq!("http://10.0.0.1:8500/".parse(), Ok(Wanted::At("http://10.0.0.1:8500".into())));
        assert!("cosul".parse::<Wanted>().unwrap_err().contains("embedded"));
    }
}
