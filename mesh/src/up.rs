//! `mesh up`: a registry and the whole shop, as real processes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use registry_client::consul::advertise_address;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cli::UpArgs,
    discover,
    exit::Exit,
    services::Service,
    state::{StateDir, StatePaths},
    terminal::{print_error, print_line},
};

mod access;
pub(crate) mod banner;
pub(crate) mod children;
pub(crate) mod overview;
pub(crate) mod ports;
pub(crate) mod registry;
mod seed;
mod shop;
pub(crate) mod shutdown;

use access::Access;
use children::{Children, Program};
use overview::{Overview, ProcessStatus, rfc3339_now};
use ports::Ports;
use registry::{Choice, Registry};
use shop::Shop;
use shutdown::Shutdown;

/// The limit on the stop of all processes after a second signal.
const FORCED_STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes the ports that the environment gives under the names of earlier
/// versions, and warns once of those that a container platform wrote.
///
/// # Errors
/// When one holds neither a port nor a link.
#[allow(clippy::disallowed_methods, reason = "called by `main`, as the rest of the command line is read")]
pub(crate) fn read_former_names(args: &mut UpArgs) -> Result<()> {
    let links = args.ports.read_former_names(|name| std::env::var(name).ok())?;
    if !links.is_empty() {
        print_error(&format!(
            "ignoring {}: Kubernetes sets it for a Service of that name, and it is not a port; set ports with \
             CONSORT_PORT_..., and remove such variables with `enableServiceLinks: false` in the pod",
            links.join(", ")
        ));
    }
    Ok(())
}

/// Starts everything, runs until a shutdown signal, and stops everything.
///
/// # Errors
/// When something does not start; what did start is stopped again.
pub(crate) async fn run(args: UpArgs) -> Result<Exit> {
    let began = (Instant::now(), rfc3339_now());
    let database = Database::new(args.database_url.as_deref())?;
    let state_dir = StateDir::acquire(StatePaths::of(args.location.state_dir.as_deref())?, args.fresh)?;
    crate::logging::to_file(&state_dir.files.log("mesh"))?;
    let _rotating = AbortOnDropHandle::new(tokio::spawn(crate::logging::rotate(state_dir.files.logs())));
    let shutdown = Shutdown::on_signals()?;

    let ports = Ports::new(&args.ports);
    let choice = Choice::make(&args.registry, args.location.consul(), &args.consul_bin).await?;
    let host = advertised_host(&args, &choice).await?;
    let access = Access::new(args.auth, host, &state_dir.files)?;
    ports.check_services(host, args.replicas)?;
    match &choice {
        Choice::Running { .. } => {}
        Choice::Consul { .. } => ports.check_registry(true)?,
        Choice::Embedded => ports.check_registry(false)?,
    }

    let (events, received) = mpsc::channel(64);
    let registry = choice.start(&ports, &state_dir.files, &events, &shutdown).await?;
    let overview = planned_processes(&ports, host, args.replicas, &state_dir.files);
    let programs = programs(&overview, &registry.url, &state_dir.files, &database, &access)?;
    let children = Children::start(programs, &events, &shutdown);
    drop(events);
    let shop = Shop::new(&state_dir, &registry, overview, began, (access, args.has_consul_token));
    let ended = shop.watch(received, &shutdown).await;

    let drained = end(children, registry, &shutdown).await;
    state_dir.clear();
    ended.map(|()| if drained { Exit::Success } else { Exit::Interrupted })
}

/// Stops the processes, then the registry that they deregister from; returns
/// false if a second signal cut it short.
async fn end(mut children: Children, registry: Registry, shutdown: &Shutdown) -> bool {
    shutdown.begin();
    print_line("stopping; Ctrl-C again ends at once");
    tokio::select! {
        () = async { children.wait_all().await; registry.stop().await } => true,
        () = shutdown.forced() => {
            let _ = timeout(FORCED_STOP_TIMEOUT, children.wait_all()).await;
            false
        }
    }
}

/// The address that services listen on and register: loopback unless the
/// registry is on another machine, which must be able to check them.
///
/// # Errors
/// When the address cannot be dialled, or no route leads to the registry.
async fn advertised_host(args: &UpArgs, choice: &Choice) -> Result<IpAddr> {
    let loopback = Ipv4Addr::LOCALHOST.into();
    match (args.host, choice) {
        (Some(host), _) if host.is_unspecified() => {
            bail!("no service can be reached at {host}; give --host an address of this machine")
        }
        (Some(host), _) => Ok(host),
        (None, Choice::Running { url }) => {
            let facing = advertise_address(&discover::client(url)?).await;
            let facing =
                facing.context("could not find the address that faces the registry; set it with --host")?;
            Ok(if facing.is_loopback() { loopback } else { facing })
        }
        (None, _) => Ok(loopback),
    }
}

/// The processes to start.
fn planned_processes(ports: &Ports, host: IpAddr, replicas: u16, files: &StatePaths) -> Overview {
    let status = |service: Service, replica: u16| {
        let address = SocketAddr::new(host, ports.service(service, replica));
        let admin = ports.admin(service, replica);
        ProcessStatus::new(service, replica, (address, admin), files.log(&format!("{service}-{replica}")))
    };
    let replicas = |service| (1..=replicas).map(move |replica| (service, replica));
    let all = Service::ALL.into_iter().flat_map(replicas);
    Overview::new(all.map(|(service, replica)| status(service, replica)).collect())
}

/// The command of each process: this program, as `mesh serve`. It inherits the
/// environment, such as `NATS_URL`.
fn programs(
    overview: &Overview,
    registry: &str,
    files: &StatePaths,
    database: &Database,
    access: &Access,
) -> Result<Vec<Program>> {
    let path = std::env::current_exe().context("could not find this program's path")?;
    let program = |status: &ProcessStatus| {
        let mut env = access.env(status.service);
        env.extend([
            ("LISTEN", status.address.to_string().into()),
            ("DATABASE_URL", database.of(status.service, files).into()),
            ("CONSUL_HTTP_ADDR", registry.into()),
            ("CONSORT_STATE_DIR", files.dir().into()),
            ("CONSORT_ADMIN", status.admin.to_string().into()),
            // Huge pages that are hardly used would double what the shop takes of a
            // developer's memory.
            ("MIMALLOC_ALLOW_THP", "0".into()),
        ]);
        let args = ["serve", status.service.name(), "--parent-pipe"].map(Into::into).into();
        Program { name: status.name.clone(), path: path.clone(), args, env, log: status.log.clone() }
    };
    Ok(overview.instances.iter().map(program).collect())
}

/// The database of each service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Database {
    /// A file for each in the state directory.
    StatePaths,
    /// A URL with `{service}` in it.
    Template(String),
}

impl Database {
    pub(crate) fn new(template: Option<&str>) -> Result<Self> {
        match template {
            None => Ok(Self::StatePaths),
            Some(template) if template.contains("{service}") => Ok(Self::Template(template.to_owned())),
            Some(_) => bail!(
                "--database-url gives every service the same database; write {{service}} where its name goes, \
                 for example postgres://shop@localhost/{{service}}"
            ),
        }
    }

    pub(crate) fn of(&self, service: Service, files: &StatePaths) -> String {
        match self {
            Self::StatePaths => {
                format!("sqlite:{}", files.data().join(format!("{}.db", service.short_name())).display())
            }
            Self::Template(template) => template.replace("{service}", service.short_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_database_of_its_own() {
        let files = StatePaths::of(Some("/somewhere".as_ref())).unwrap();
        let of = |template, service| Database::new(template).unwrap().of(service, &files);
        assert_eq!(of(None, Service::Cart), "sqlite:/somewhere/data/cart.db");
        assert_eq!(of(Some("postgres://h/{service}_db"), Service::Order), "postgres://h/order_db");
        assert!(Database::new(Some("postgres://h/shop")).unwrap_err().to_string().contains("{service}"));
    }
}
