//! The shop of a demo: an ordinary `mesh up`, on a registry that can be
//! stopped.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpListener as Probe},
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use consul_dev::{Agent, Options};
use registry_client::{
    consul::ConsulResolver,
    instance::{InstanceHealth, InstanceId},
    resolve::Resolver,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, ChildStdin},
    time::{Instant, sleep, timeout},
};

use super::proxy::Proxy;
use crate::{
    discover,
    services::Service,
    state::{Process, StatePaths},
    up::children::{Program, tail},
};

/// The number of instances of each service.
pub(crate) const REPLICAS: u16 = 3;
/// The state directory of `mesh up`, below the demo's own folder.
const STATE_DIR: &str = "shop";
/// The limit on the start of the shop.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// The limit on the end of a process.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A shop that runs.
pub(crate) struct Shop {
    dir: TempDir,
    base: u16,
    registry: Option<Agent>,
    registry_address: SocketAddr,
    up: ChildProcess,
    extra: Option<(ChildProcess, Proxy)>,
}

/// A process, and the pipe whose end ends it.
struct ChildProcess {
    child: Child,
    pipe: Option<ChildStdin>,
    program: Program,
}

impl Shop {
    /// Starts it and waits until every instance passes.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) async fn start(base: Option<u16>) -> Result<Self> {
        let base = match base {
            Some(base) => base,
            None => free_base()?,
        };
        let dir = tempfile::Builder::new().prefix("mesh-demo-").tempdir();
        let dir = dir.context("could not create a temporary folder")?;
        let registry_address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), base);
        let registry = Agent::bind(registry_address, Options::default()).await;
        let registry = registry
            .with_context(|| format!("port {base} cannot be opened; choose others with --port-base"))?;
        let replicas = REPLICAS.to_string();
        let (url, port) = (registry.url(), base.to_string());
        let own = std::env::current_exe().context("could not find this program's path")?;
        let mut args: Vec<OsString> = ["tether", "--"].map(OsString::from).into();
        args.push(own.into());
        args.extend(
            ["up", "--registry", &url, "--replicas", &replicas, "--port-base", &port, "--state-dir"]
                .map(OsString::from),
        );
        args.push(dir.path().join(STATE_DIR).into());
        let up = ChildProcess::start("mesh-up", args, Vec::new(), dir.path())?;
        let mut shop = Self { dir, base, registry: Some(registry), registry_address, up, extra: None };
        shop.wait_until_ready().await?;
        Ok(shop)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY_TIMEOUT;
        loop {
            let processes = self.carts()?;
            let passing = |p: &&Process| p.pid.is_some() && p.health.as_deref() == Some("passing");
            if processes.iter().filter(passing).count() == usize::from(REPLICAS) {
                return Ok(());
            }
            let ended = self.up.child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                bail!("the shop did not come up; its last lines:\n{}", tail(&self.up.program.log, 8));
            }
            // Another process writes the file that is polled here.
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The registry's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.registry_address)
    }

    /// The cart-services in the `mesh.json` of `mesh up`.
    fn carts(&self) -> Result<Vec<Process>> {
        let mesh = StatePaths::of(Some(&self.dir.path().join(STATE_DIR)))?.running()?;
        let all = mesh.map(|mesh| mesh.instances).unwrap_or_default();
        Ok(all.into_iter().filter(|p| p.service == Service::Cart.name()).collect())
    }

    /// The id and the process of cart-service `n`, counted from 0.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn cart(&self, n: usize) -> Result<(String, Pid)> {
        let process = self.carts()?.into_iter().nth(n).context("fewer cart-services than started")?;
        let pid = process.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok((process.id.context("an instance without an id")?, pid.context("an instance without a process")?))
    }

    /// Sends a signal to cart-service `n` and returns its id.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn signal(&self, n: usize, signal: Signal) -> Result<String> {
        let (id, pid) = self.cart(n)?;
        kill_process(pid, signal).with_context(|| format!("could not signal {id}"))?;
        Ok(id)
    }

    /// Starts a fourth cart-service behind a proxy and returns its id.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) async fn extra(&mut self) -> Result<String> {
        let host = Ipv4Addr::LOCALHOST;
        let behind = SocketAddr::new(host.into(), self.base + 101);
        let listener = TcpListener::bind((host, self.base + 100)).await.context("could not listen")?;
        let proxy = Proxy::start(listener, behind)?;
        let files = StatePaths::of(Some(&self.dir.path().join(STATE_DIR)))?;
        let database = format!("sqlite:{}", files.data().join("cart.db").display());
        let env = vec![
            ("LISTEN", behind.to_string().into()),
            ("ADVERTISE", proxy.address.to_string().into()),
            ("DATABASE_URL", database.into()),
            ("CONSUL_HTTP_ADDR", self.url().into()),
            ("AUTH", "off".into()),
        ];
        let args = ["serve", Service::Cart.name(), "--parent-pipe"].map(OsString::from).into();
        let running = ChildProcess::start("cart-service-extra", args, env, self.dir.path())?;
        let id = format!("{}-{host}-{}", Service::Cart, proxy.address.port());
        self.extra = Some((running, proxy));
        self.wait_until_passing(&id).await?;
        Ok(id)
    }

    /// The proxy in front of the fourth.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn proxy(&self) -> Result<&Proxy> {
        self.extra.as_ref().map(|(_, proxy)| proxy).context("there is no fourth instance")
    }

    /// Waits until the registry shows that cart-service passing.
    async fn wait_until_passing(&self, id: &str) -> Result<()> {
        let id = InstanceId::new(id);
        let mut view =
            ConsulResolver::new(discover::client(&self.url())?).resolve(&Service::Cart.name().parse()?);
        let wait_until_passing = view.wait_for(|now| {
            let mut all = now.instances.iter().flat_map(|all| all.iter());
            all.any(|i| i.id == id && i.health == InstanceHealth::Passing)
        });
        timeout(READY_TIMEOUT, wait_until_passing).await.with_context(|| format!("{id} does not pass"))??;
        Ok(())
    }

    /// Stops the registry, which loses its state.
    pub(crate) async fn stop_registry(&mut self) {
        if let Some(agent) = self.registry.take() {
            agent.stop().await;
        }
    }

    /// Starts the registry again where it was.
    ///
    /// # Errors
    /// When another process took its port.
    pub(crate) async fn start_registry(&mut self) -> Result<()> {
        let agent = Agent::bind(self.registry_address, Options::default()).await;
        self.registry = Some(agent.context("the registry cannot be started again")?);
        Ok(())
    }

    /// Stops everything in order, and the registry last.
    pub(crate) async fn end(self) {
        if let Some((extra, _proxy)) = self.extra {
            extra.end().await;
        }
        self.up.end().await;
        if let Some(agent) = self.registry {
            agent.stop().await;
        }
    }
}

impl ChildProcess {
    fn start(
        name: &str,
        args: Vec<OsString>,
        env: Vec<(&'static str, OsString)>,
        dir: &Path,
    ) -> Result<Self> {
        let path = std::env::current_exe().context("could not find this program's path")?;
        let log = dir.join(format!("{name}.log"));
        let program = Program { name: name.to_owned(), path, args, env, log };
        let (child, pipe) = program.start()?;
        Ok(Self { child, pipe, program })
    }

    /// Closes the pipe, which ends the process, and waits for it.
    async fn end(mut self) -> Option<ExitStatus> {
        self.pipe.take();
        let ended = timeout(EXIT_TIMEOUT, self.child.wait()).await;
        if ended.is_err() {
            let _ = self.child.kill().await;
        }
        ended.ok()?.ok()
    }
}

/// A port base such that the shop's ports are free now, below the range that
/// the system gives to outgoing connections.
fn free_base() -> Result<u16> {
    let free = |port: u16| Probe::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let replicas = |service: u16| (0..REPLICAS).flat_map(move |n| [service * 10 + n, service * 10 + n + 100]);
    let offsets: Vec<u16> = (1..=5).flat_map(replicas).chain([0, 100, 101]).collect();
    let begin = u16::try_from(std::process::id() % 50).unwrap_or_default();
    let bases = (0..50).map(|n| 20_000 + 200 * ((begin + n) % 50));
    let found = bases.into_iter().find(|base| offsets.iter().all(|offset| free(base + offset)));
    found.context("no 200 ports below 30000 are free; choose some with --port-base")
}
