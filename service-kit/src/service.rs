//! The wiring of a service, from its settings to its end.

use std::{convert::Infallible, fmt, future::Future, io::Write, pin::Pin, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use registry_client::{
    AdminConfig, Mesh, MeshBuilder, ServerConfig,
    server::{Drain, Server, ServerHealth, shutdown_signal},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use tonic::{
    body::Body,
    codegen::{
        Service as TowerService,
        http::{Request, Response},
    },
    server::NamedService,
};
use tracing::info;

use crate::{
    auth::Auth,
    config::{self, ServiceConfig},
    database::{self, Database, Migrations},
    metrics::Metrics,
    nats::Nats,
    telemetry,
};

/// The time to wait for drainable tasks after the last call.
const DRAIN_TASKS_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum size of a request in bytes, far above any valid request of the
/// shop.
const MAX_MESSAGE_SIZE: usize = 1 << 20;
/// The exit code for settings or an environment with which a program cannot run.
const EXIT_CANNOT_RUN: u8 = 2;

/// A service of the shop. Its fields are the options that it alone has.
pub trait Service: Send + Sync + 'static {
    /// The name under which it registers.
    const NAME: &'static str;
    /// The version that it registers.
    const VERSION: &'static str;
    /// The migrations of its schema.
    const MIGRATIONS: Migrations;

    /// Checks the options without starting, as far as `--print-config` does.
    ///
    /// # Errors
    /// When an option cannot be used, with the fix.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Adds the gRPC services and the background tasks to `builder`.
    ///
    /// # Errors
    /// When an option cannot be used, with the fix.
    fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> impl Future<Output = anyhow::Result<ServiceBuilder>> + Send;
}

/// The mesh, the database and the settings that every service has. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct ServiceContext {
    /// The mesh, by which it calls other services.
    pub mesh: Mesh,
    /// The database of the service.
    pub database: Database,
    /// The authentication of callers.
    pub auth: Auth,
    /// The transport of events; the mesh itself where there is none.
    pub nats: Option<Nats>,
}

impl ServiceContext {
    /// A context without authentication, for tests.
    #[must_use]
    pub fn open(mesh: Mesh, database: Database) -> Self {
        Self { mesh, database, auth: Auth::off(), nats: None }
    }
}

/// A task that a service runs besides its calls. It may be dropped at every
/// point where it waits.
pub type BackgroundTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The builder of a service.
pub struct ServiceBuilder {
    server: Server,
    auth: Auth,
    tasks: Vec<BackgroundTask>,
    drainable_tasks: Vec<BackgroundTask>,
    /// The full names of the gRPC services.
    names: Vec<&'static str>,
}

impl ServiceBuilder {
    /// Serves `service`, one that tonic generates, behind the guard.
    #[must_use]
    pub fn serve<S, B>(mut self, service: S) -> Self
    where
        S: TowerService<Request<Body>, Response = Response<B>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.names.push(S::NAME);
        Self { server: self.server.add_service(self.auth.guard(service)), ..self }
    }

    /// Runs `task` from before the first call until after the last.
    #[must_use]
    pub fn background_task(mut self, task: impl Future<Output = ()> + Send + 'static) -> Self {
        self.tasks.push(Box::pin(task));
        self
    }

    /// Runs `task`, which must end by itself after the signal of
    /// [`drain`](Self::drain). The service waits for that, up to 1 s, so that the
    /// task can release its leases.
    #[must_use]
    pub fn drainable_task(mut self, task: impl Future<Output = ()> + Send + 'static) -> Self {
        self.drainable_tasks.push(Box::pin(task));
        self
    }

    /// The signal that the service begins to drain.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.server.drain_signal()
    }
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks.len() + self.drainable_tasks.len();
        f.debug_struct("ServiceBuilder").field("tasks", &tasks).finish_non_exhaustive()
    }
}

/// The `main` of a service: reads the settings, initializes logging, and runs the
/// service until SIGTERM, SIGINT or SIGHUP. On failure it writes one line to
/// standard error and returns exit code 2.
#[must_use]
pub fn main<S: Service + Args>() -> ExitCode {
    let command = ServiceConfig::augment_args(Command::new(S::NAME).version(S::VERSION));
    let command = S::augment_args(command).about("A service of the shop, on the mesh.");
    match run_command::<S>(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // A failure to write cannot be reported.
            let _ = writeln!(std::io::stderr(), "{}: {why:#}", S::NAME);
            ExitCode::from(EXIT_CANNOT_RUN)
        }
    }
}

fn run_command<S: Service + Args>(command: Command) -> anyhow::Result<()> {
    let matches = command.clone().get_matches();
    let config = ServiceConfig::from_arg_matches(&matches).context("could not read the settings")?;
    let service = S::from_arg_matches(&matches).context("could not read the settings")?;
    config::refuse_control_characters(&command, &matches)?;
    if config.print_config {
        return print_and_check(&service, &config, &matches, &mut std::io::stdout().lock());
    }
    telemetry::init(&config.log);
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    runtime.block_on(async { run(service, config, Box::pin(shutdown_signal())).await })
}

/// Prints every setting of a service, and then checks them. `service` and `config`
/// were read from `matches`.
///
/// # Errors
/// When `out` fails, or the service would not start with these settings.
pub fn print_and_check<S: Service + Args>(
    service: &S,
    config: &ServiceConfig,
    matches: &ArgMatches,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let options = S::augment_args(Command::new(S::NAME));
    config.print(S::NAME, &options, matches, out).context("could not print the settings")?;
    config.check(S::NAME)?;
    service.check()
}

/// The signal to stop a program.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a service with these settings until `shutdown` completes.
///
/// # Errors
/// When a setting, the address or the database cannot be used, with the fix.
///
/// # Cancel safety
/// As [`serve`].
pub async fn run<S: Service>(
    service: S,
    config: ServiceConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    service.check()?;
    let (context, listener) = open_context::<S>(&config).await?;
    serve(service, context, listener, shutdown).await
}

/// Serves on `listener` until `shutdown` completes; then closes the database.
///
/// # Errors
/// As [`Server::run`].
///
/// # Cancel safety
/// Dropping it closes every connection; committed data stays.
pub async fn serve<S: Service>(
    service: S,
    context: ServiceContext,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let builder = ServiceBuilder {
        server: context.mesh.serve(S::NAME).version(S::VERSION),
        auth: context.auth.clone(),
        tasks: Vec::new(),
        drainable_tasks: Vec::new(),
        names: Vec::new(),
    };
    let built = service.build(&context, builder).await?;
    let ServiceBuilder { server, tasks, drainable_tasks, names, .. } = built;
    // Ends with this future, whichever way that ends.
    let mut tasks: JoinSet<()> = tasks.into_iter().collect();
    tasks.spawn(report_health(context.database.health(), server.health(), names));
    tasks.spawn(context.auth.refresh_keys(&context.mesh));
    let mut drainable_tasks: JoinSet<()> = drainable_tasks.into_iter().collect();
    let served = server.run(listener, shutdown).await;
    drop(tasks);
    if served.is_ok() {
        // The leases of a task that takes longer expire.
        let drained = async { while drainable_tasks.join_next().await.is_some() {} };
        let _ = timeout(DRAIN_TASKS_TIMEOUT, drained).await;
    }
    drop(drainable_tasks);
    context.database.close().await;
    Ok(served?)
}

/// Reports `NOT_SERVING` while the database cannot be written: callers then choose
/// another instance, whose disk may work.
async fn report_health(
    mut database: watch::Receiver<database::Health>,
    server: ServerHealth,
    names: Vec<&'static str>,
) {
    loop {
        let is_healthy = database.borrow_and_update().is_healthy();
        for name in &names {
            server.report(name, is_healthy);
        }
        if database.changed().await.is_err() {
            return;
        }
    }
}

/// Opens the mesh, the listener and the database of a service. Metrics are
/// collected only with an admin interface, which shows them.
async fn open_context<S: Service>(config: &ServiceConfig) -> anyhow::Result<(ServiceContext, TcpListener)> {
    let auth = config.auth(S::NAME)?;
    let mut serving = ServerConfig::from_env()?;
    (serving.max_message_size, serving.max_decompressed_size) = (MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE);
    if let Some(advertise) = config.advertised()? {
        serving.advertise = Some(advertise);
    }
    let mut mesh =
        MeshBuilder::from_env()?.server_config(serving).descriptors(mesh_proto::FILE_DESCRIPTOR_SET);
    let admin = AdminConfig::from_env()?;
    if admin.is_some() {
        mesh = Metrics::of(S::NAME, S::VERSION)?.measure(mesh);
    }
    let mesh = mesh.build()?;
    if let Some(admin) = admin {
        mesh.admin(&admin).await?;
    }
    let listener = bind(config).await?;
    let url = config.database(S::NAME)?;
    config.check_privacy(S::NAME, &url)?;
    let database = Database::open(&url, &S::MIGRATIONS).await?;
    let nats = match config.nats_url() {
        Some(url) => Some(Nats::connect(url, S::NAME).await?),
        None => None,
    };
    info!(service = S::NAME, database = %url, "{} uses the database {url}", S::NAME);
    Ok((ServiceContext { mesh, database, auth, nats }, listener))
}

async fn bind(config: &ServiceConfig) -> anyhow::Result<TcpListener> {
    let address = config.listen;
    TcpListener::bind(address).await.map_err(|why| {
        anyhow!(
            "could not listen on {address}: {why}; set --listen or LISTEN to another address, or to port 0"
        )
    })
}
