//! `chaos serve`: a replica that is controlled by its standard input.

use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use registry_client::{ChannelConfig, Mesh, ServerConfig, consul::Client, server::shutdown_signal};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{Request, Response, Status};
use tracing_subscriber::EnvFilter;

use crate::{
    mechanism::{ADMISSION, PEER_LIMITS},
    proto::{
        DESCRIPTORS, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
        target_service_client::TargetServiceClient,
        target_service_server::{TargetService, TargetServiceServer},
    },
    setting::{Database, ScenarioSetting, ServerKind, Size},
};

mod behaviour;
mod ledger;

use behaviour::{Command, CurrentBehaviour};
use ledger::CallLedger;
pub(crate) use ledger::Report;

/// A replica.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// The service that it is an instance of.
    #[arg(long)]
    pub(crate) service: String,
    /// The address that it listens on.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The registry; without one it does not register.
    #[arg(long)]
    pub(crate) registry: Option<String>,
    /// The service to which it relays every call.
    #[arg(long)]
    pub(crate) relay: Option<String>,
    /// The time that a call takes without a fault.
    #[arg(long, default_value = "20ms", value_parser = registry_client::parse_duration)]
    pub(crate) work: Duration,
    /// The number of calls that are worked on at once; the others wait.
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// The concurrency limit of a method [default: the server's own]
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<usize>,
    /// The mechanism that is switched off.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) without: Option<String>,
}
/// Serves until SIGTERM or the end of standard input.
///
/// # Errors
/// When it cannot listen or register.
pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(levels).with_ansi(false).with_writer(io::stderr).init();
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("could not listen on {}", args.listen))?;
    let mesh = mesh(&args)?;
    let target = Target {
        work: args.work,
        slots: args.slots.map(Semaphore::new),
        behaviour: CurrentBehaviour::default(),
        ledger: CallLedger::default(),
        drops_deadline: args.without.as_deref() == Some("propagation"),
        next: args.relay.as_deref().map(|service| TargetServiceClient::new(mesh.channel(service))),
    };
    let target = Arc::new(target);
    let server = mesh.serve(&args.service).add_service(TargetServiceServer::from_arc(target.clone()));
    let health = server.health();
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            run_commands(&target, &mesh, &|is_healthy| health.report("", is_healthy));
            // The harness is gone.
            std::process::exit(0);
        })
        .context("could not start a thread")?;
    server.run(listener, shutdown_signal()).await?;
    Ok(())
}

/// The mesh that it registers in and relays calls through.
fn mesh(args: &ServeArgs) -> Result<Mesh> {
    let mut server_config = ServerConfig::default();
    if args.without.as_deref() == Some("drain") {
        (server_config.drain, server_config.drain_timeout) = (Duration::ZERO, Duration::ZERO);
    }
    if args.without.as_deref() == Some(PEER_LIMITS) {
        unlimited(&mut server_config);
    }
    if args.without.as_deref() == Some(ADMISSION) {
        server_config.admission = None;
    }
    if let Some((admission, max)) = server_config.admission.as_mut().zip(args.max_concurrency) {
        (admission.min, admission.max, admission.initial, admission.queue) = (max, max, max, 0);
    }
    let mut builder = Mesh::builder().server_config(server_config).descriptors(DESCRIPTORS);
    builder = match &args.registry {
        Some(url) => builder.consul(Client::builder(url).build()?),
        None => builder.resolver(registry_client::resolve::fixed::FixedResolver::with([])),
    };
    Ok(builder.channel_config(channel_config(args)).build()?)
}

/// Lifts every limit on the resources that a peer may hold.
fn unlimited(server_config: &mut ServerConfig) {
    const NEVER: Duration = Duration::from_secs(3600);
    // Leaves room for sums of them.
    const ANY: usize = usize::MAX / 8;
    (server_config.max_streams, server_config.max_buffered_bytes, server_config.max_connections) =
        (ANY, ANY, ANY);
    (server_config.receive_timeout, server_config.send_timeout, server_config.handshake_timeout) =
        (NEVER, NEVER, NEVER);
}

/// The channel configuration of the load.
fn channel_config(args: &ServeArgs) -> ChannelConfig {
    let without = args.without.clone().map(|name| &*name.leak());
    let (logs, consul, grpc_go) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
    let (size, db, server_kind, attacks) = (Size::Usual, Database::Sqlite, ServerKind::Consort, Vec::new());
    ScenarioSetting { size, without, logs, consul, db, server_kind, grpc_go, attacks }.channel_config()
}

/// Runs the command in each line of standard input until it ends.
fn run_commands(target: &Target, mesh: &Mesh, set_healthy: &dyn Fn(bool)) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let response = match line.parse() {
            Ok(Command::Report) => {
                serde_json::to_string(&target.ledger.take()).map(|r| format!("report {r}"))
            }
            Ok(Command::State) => serde_json::to_string(&mesh.state()).map(|state| format!("state {state}")),
            Ok(Command::SetHealthy(is_healthy)) => {
                set_healthy(is_healthy);
                Ok(format!("now {line}"))
            }
            Ok(Command::SetBehaviour(new_behaviour)) => {
                target.behaviour.set(new_behaviour);
                Ok(format!("now {line}"))
            }
            Err(why) => Ok(format!("what? {why}")),
        };
        let mut out = io::stdout().lock();
        let _ = response.map(|response| writeln!(out, "{response}").and_then(|()| out.flush()));
    }
}

/// The service.
#[derive(Debug)]
struct Target {
    work: Duration,
    /// The limit on calls that are worked on at once.
    slots: Option<Semaphore>,
    behaviour: CurrentBehaviour,
    ledger: CallLedger,
    next: Option<TargetServiceClient<registry_client::Channel>>,
    /// True if it does not propagate the deadline of a call.
    drops_deadline: bool,
}

impl Target {
    async fn handle<T>(&self, request: Request<T>) -> Result<(), Status> {
        let _entry = self.ledger.enter(request.metadata());
        let slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        self.behaviour.apply(self.work).await?;
        drop(slot);
        if let Some(next) = &self.next {
            let mut next = next.clone();
            if self.drops_deadline {
                // Another task does not inherit the deadline of the call.
                let call = tokio::spawn(async move { next.read(ReadRequest::default()).await.map(drop) });
                return call.await.unwrap_or_else(|_| Err(Status::internal("the call was lost")));
            }
            next.read(ReadRequest::default()).await?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl TargetService for Target {
    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        // Bounded by the message size limit.
        let bytes = (request.get_ref().answer_bytes as usize).min(4 << 20);
        self.handle(request).await?;
        Ok(Response::new(ReadResponse { body: vec![0; bytes] }))
    }

    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        self.handle(request).await?;
        Ok(Response::new(WriteResponse {}))
    }
}
