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
    Exit,
    cli::UpArgs,
    found,
    out::{complain, say},
    services::Service,
    state::{Files, Owned},
};

mod access;
pub(crate) mod banner;
pub(crate) mod children;
pub(crate) mod overview;
pub(crate) mod ports;
pub(crate) mod registry;
mod seed;
mod shop;
pub(crate) mod stop;

use access::Access;
use children::{Children, Program};
use overview::{Overview, Seen, rfc3339_now};
use ports::Ports;
use registry::{Choice, Registry};
use shop::Shop;
use stop::Stop;

/// How long the end may take once there is no more time.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Takes the ports that the environment gives under the names of earlier
/// versions, and warns once of those that a container platform wrote.
///
/// # Errors
/// When one holds neither a port nor a link.
#[allow(clippy::disallowed_methods, reason = "called by `main`, as the rest of the command line is read")]
pub(crate) fn read_former_names(args: &mut UpArgs) -> Result<()> {
    let links = args.ports.read_former_names(|name| std::env::var(name).ok())?;
    if !links.is_empty() {
        complain(&format!(
            "ignoring {}: Kubernetes writes it for a Service of that name, and it is no port; a port is set by \
             CONSORT_PORT_..., and `enableServiceLinks: false` in the pod keeps such variables away",
            links.join(", ")
        ));
    }
    Ok(())
}

/// Starts everything, stays until it is told to stop, stops everything.
///
/// # Errors
/// When something does not start; what did start is stopped again.
pub(crate) async fn run(args: UpArgs) -> Result<Exit> {
    let began = (Instant::now(), rfc3339_now());
    let database = Database::new(args.database_url.as_deref())?;
    let owned = Owned::take(Files::of(args.whereabouts.state_dir.as_deref())?, args.fresh)?;
    crate::logging::to_file(&owned.files.log("mesh"))?;
    let _rotating = AbortOnDropHandle::new(tokio::spawn(crate::logging::rotate(owned.files.logs())));
    let stop = Stop::on_signals()?;

    let ports = Ports::new(&args.ports);
    let choice = Choice::make(&args.registry, args.whereabouts.consul(), &args.consul_bin).await?;
    let host = host(&args, &choice).await?;
    let access = Access::new(args.auth, host, &owned.files)?;
    ports.check_services(host, args.replicas)?;
    match &choice {
        Choice::Running { .. } => {}
        Choice::Consul { .. } => ports.check_registry(true)?,
        Choice::Embedded => ports.check_registry(false)?,
    }

    let (events, received) = mpsc::channel(64);
    let registry = choice.start(&ports, &owned.files, &events, &stop).await?;
    let overview = plan(&ports, host, args.replicas, &owned.files);
    let programs = programs(&overview, &registry.url, &owned.files, &database, &access)?;
    let children = Children::start(programs, &events, &stop);
    drop(events);
    let shop = Shop::new(&owned, &registry, overview, began, (access, args.token));
    let ended = shop.watch(received, &stop).await;

    let drained = end(children, registry, &stop).await;
    owned.clear();
    ended.map(|()| if drained { Exit::Fine } else { Exit::Interrupted })
}

/// Stops the processes, then the registry that they deregister from; returns
/// whether there was time for it.
async fn end(mut children: Children, registry: Registry, stop: &Stop) -> bool {
    stop.begin();
    say("stopping; Ctrl-C again ends at once");
    tokio::select! {
        () = async { children.ended().await; registry.stop().await } => true,
        () = stop.at_once() => {
            let _ = timeout(AT_ONCE, children.ended()).await;
            false
        }
    }
}

/// The address on which services are reached: this machine's own unless the
/// registry is on another, which must be able to check them.
///
/// # Errors
/// When nobody could dial it, or no way leads to the registry.
async fn host(args: &UpArgs, choice: &Choice) -> Result<IpAddr> {
    let loopback = Ipv4Addr::LOCALHOST.into();
    match (args.host, choice) {
        (Some(host), _) if host.is_unspecified() => {
            bail!("nobody can dial {host}; give --host an address of this machine")
        }
        (Some(host), _) => Ok(host),
        (None, Choice::Running { url }) => {
            let facing = advertise_address(&found::client(url)?).await;
            let facing =
                facing.context("could not tell which address faces the registry; name it with --host")?;
            Ok(if facing.is_loopback() { loopback } else { facing })
        }
        (None, _) => Ok(loopback),
    }
}

/// Which processes there shall be, before any is started.
fn plan(ports: &Ports, host: IpAddr, replicas: u16, files: &Files) -> Overview {
    let seen = |service: Service, replica: u16| {
        let address = SocketAddr::new(host, ports.service(service, replica));
        let admin = ports.admin(service, replica);
        Seen::new(service, replica, (address, admin), files.log(&format!("{service}-{replica}")))
    };
    let replicas = |service| (1..=replicas).map(move |replica| (service, replica));
    let all = Service::ALL.into_iter().flat_map(replicas);
    Overview::new(all.map(|(service, replica)| seen(service, replica)).collect())
}

/// How each of them is started: this very program, as `mesh serve`. What else
/// this process was told by its environment, such as `NATS_URL`, reaches it.
fn programs(
    overview: &Overview,
    registry: &str,
    files: &Files,
    database: &Database,
    access: &Access,
) -> Result<Vec<Program>> {
    let path = std::env::current_exe().context("could not tell which program this is")?;
    let program = |seen: &Seen| {
        let mut env = access.env(seen.service);
        env.extend([
            ("LISTEN", seen.address.to_string().into()),
            ("DATABASE_URL", database.of(seen.service, files).into()),
            ("CONSUL_HTTP_ADDR", registry.into()),
            ("CONSORT_STATE_DIR", files.dir().into()),
            ("CONSORT_ADMIN", seen.admin.to_string().into()),
            // Huge pages that are hardly used would double what the shop takes of a
            // developer's memory.
            ("MIMALLOC_ALLOW_THP", "0".into()),
        ]);
        let args = ["serve", seen.service.name(), "--parent-pipe"].map(Into::into).into();
        Program { name: seen.name.clone(), path: path.clone(), args, env, log: seen.log.clone() }
    };
    Ok(overview.instances.iter().map(program).collect())
}

/// Where each service keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Database {
    /// A file for each in the state directory.
    Files,
    /// A URL with `{service}` in it.
    Template(String),
}

impl Database {
    pub(crate) fn new(template: Option<&str>) -> Result<Self> {
        match template {
            None => Ok(Self::Files),
            Some(template) if template.contains("{service}") => Ok(Self::Template(template.to_owned())),
            Some(_) => bail!(
                "--database-url gives every service the same database; write {{service}} where its name goes, \
                 for example postgres://shop@localhost/{{service}}"
            ),
        }
    }

    pub(crate) fn of(&self, service: Service, files: &Files) -> String {
        match self {
            Self::Files => {
                format!("sqlite:{}", files.data().join(format!("{}.db", service.short())).display())
            }
            Self::Template(template) => template.replace("{service}", service.short()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_database_of_its_own() {
        let files = Files::of(Some("/somewhere".as_ref())).unwrap();
        let of = |template, service| Database::new(template).unwrap().of(service, &files);
        assert_eq!(of(None, Service::Cart), "sqlite:/somewhere/data/cart.db");
        assert_eq!(of(Some("postgres://h/{service}_db"), Service::Order), "postgres://h/order_db");
        assert!(Database::new(Some("postgres://h/shop")).unwrap_err().to_string().contains("{service}"));
    }
}
