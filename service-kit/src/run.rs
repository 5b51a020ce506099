//! The paved path of a service's `main`.

use std::{future::Future, io::Write, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Command, FromArgMatches};
use registry_client::{AdminConfig, MeshBuilder, ServerConfig, server::shutdown_signal};
use tokio::net::TcpListener;
use tracing::info;

use crate::{
    config::{self, ServiceConfig},
    database::{Database, Migrations},
    events::Nats,
    metrics::Metrics,
    service::{self, Base, Service},
    telemetry,
};

/// What a program exits with when its settings or surroundings do not let it
/// run.
const SET_UP: u8 = 2;

/// A whole `main`: reads the settings of a service, begins to log, and runs it
/// until SIGTERM, SIGINT or SIGHUP. What fails is said in one line on standard error,
/// with exit code 2.
#[must_use]
pub fn main<S: Service>() -> ExitCode {
    let command = ServiceConfig::augment_args(Command::new(S::NAME).version(S::VERSION));
    let command = command.about("A service of the shop, on the mesh.");
    let matches = command.clone().get_matches();
    let done =
        ServiceConfig::from_arg_matches(&matches).context("could not read the settings").and_then(|config| {
            config::refuse_control_characters(&command, &matches)?;
            if config.print_config {
                let mut out = std::io::stdout().lock();
                config::print(S::NAME, &config, &matches, &mut out).context("could not print")?;
                return config.check(S::NAME);
            }
            telemetry::init(&config.log);
            let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
            runtime.block_on(async { service::run::<S>(config, Box::pin(shutdown_signal())).await })
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Where this cannot be written there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{}: {why:#}", S::NAME);
            ExitCode::from(SET_UP)
        }
    }
}

/// Completes when the program shall stop.
pub type Shutdown = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What every service starts with.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What it runs on.
    pub(crate) base: Base,
    /// Where to serve.
    pub(crate) listener: TcpListener,
}

/// The largest request that the shop takes, in bytes: none of its requests that
/// means anything comes near it.
const MAX_MESSAGE_SIZE: usize = 1 << 20;

/// Puts together what `service` needs: the mesh, its database, its listener.
/// Where it tells of itself it is measured; nobody could read it otherwise.
///
/// # Errors
/// When a setting cannot be used, the address is taken, or the database cannot
/// be opened; each with how to mend it.
///
/// # Cancel safety
/// Cancel safe: nothing is left behind but a migrated database.
pub(crate) async fn ready(
    (service, version): (&'static str, &'static str),
    config: &ServiceConfig,
    migrations: &Migrations,
) -> anyhow::Result<Ready> {
    let auth = config.auth(service)?;
    let mut serving = ServerConfig::from_env()?;
    (serving.max_message_size, serving.max_decompressed_size) = (MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE);
    if let Some(advertise) = config.advertised()? {
        serving.advertise = Some(advertise);
    }
    let mut mesh =
        MeshBuilder::from_env()?.server_config(serving).descriptors(mesh_proto::FILE_DESCRIPTOR_SET);
    let admin = AdminConfig::from_env()?;
    if admin.is_some() {
        mesh = Metrics::of(service, version)?.measure(mesh);
    }
    let mesh = mesh.build()?;
    if let Some(admin) = admin {
        mesh.admin(&admin).await?;
    }
    let listener = bind(config).await?;
    let url = config.database(service)?;
    config.check_privacy(service, &url)?;
    let database = Database::open(&url, migrations).await?;
    let nats = match config.nats_url() {
        Some(url) => Some(Nats::connect(url, service).await?),
        None => None,
    };
    info!(service, database = %url, "the data of {service} is in {url}");
    let base = Base {
        mesh,
        database,
        auth,
        encryption_keys: config.encryption_keys()?,
        admin: config.admin.first()?,
        payment_faults: config.payment_faults.clone(),
        nats,
        carrier_faults: config.carrier_faults.clone(),
    };
    Ok(Ready { base, listener })
}

async fn bind(config: &ServiceConfig) -> anyhow::Result<TcpListener> {
    let address = config.listen;
    TcpListener::bind(address).await.map_err(|why| {
        anyhow!(
            "could not listen on {address}: {why}; take another address by --listen or LISTEN, or port 0 for any"
        )
    })
}
