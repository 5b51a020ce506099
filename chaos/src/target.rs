//! `chaos serve`: a replica that behaves as its standard input says.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::{ChannelConfig, Mesh, ServerConfig, consul::Client, server::shutdown_signal};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{Request, Response, Status};
use tracing_subscriber::EnvFilter;

use crate::{
    bed::{ADMISSION, Make, PEER_LIMITS, Setting},
    cli::{Database, ServeArgs, Size},
    proto::{
        DESCRIPTORS, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
        target_service_client::TargetServiceClient,
        target_service_server::{TargetService, TargetServiceServer},
    },
};

mod behaviour;
mod ledger;

use behaviour::{Behaviour, Order};
use ledger::Ledger;
pub(crate) use ledger::Report;

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
        behaviour: Behaviour::default(),
        ledger: Ledger::default(),
        forgets: args.without.as_deref() == Some("propagation"),
        next: args.relay.as_deref().map(|service| TargetServiceClient::new(mesh.channel(service))),
    };
    let target = Arc::new(target);
    let server = mesh.serve(&args.service).add_service(TargetServiceServer::from_arc(target.clone()));
    let health = server.health();
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            obey(&target, &mesh, &|well| health.report("", well));
            // The harness is gone, however it went.
            std::process::exit(0);
        })
        .context("could not start a thread")?;
    server.run(listener, shutdown_signal()).await?;
    Ok(())
}

/// The mesh that it registers in and passes calls on through.
fn mesh(args: &ServeArgs) -> Result<Mesh> {
    let mut serving = ServerConfig::default();
    if args.without.as_deref() == Some("drain") {
        (serving.drain, serving.drain_timeout) = (Duration::ZERO, Duration::ZERO);
    }
    if args.without.as_deref() == Some(PEER_LIMITS) {
        unlimited(&mut serving);
    }
    if args.without.as_deref() == Some(ADMISSION) {
        serving.admission = None;
    }
    if let Some((admission, max)) = serving.admission.as_mut().zip(args.max_concurrency) {
        (admission.min, admission.max, admission.initial, admission.queue) = (max, max, max, 0);
    }
    let mut builder = Mesh::builder().server_config(serving).descriptors(DESCRIPTORS);
    builder = match &args.registry {
        Some(url) => builder.consul(Client::builder(url).build()?),
        None => builder.resolver(registry_client::resolve::fixed::FixedResolver::with([])),
    };
    Ok(builder.channel_config(calls(args)).build()?)
}

/// Lifts every limit on what a peer may hold.
fn unlimited(serving: &mut ServerConfig) {
    const NEVER: Duration = Duration::from_secs(3600);
    // Room for sums of them.
    const ANY: usize = usize::MAX / 8;
    (serving.max_streams, serving.max_buffered_bytes, serving.max_connections) = (ANY, ANY, ANY);
    (serving.receive_timeout, serving.send_timeout, serving.handshake_timeout) = (NEVER, NEVER, NEVER);
}

/// Calls as the load does.
fn calls(args: &ServeArgs) -> ChannelConfig {
    let without = args.without.clone().map(|name| &*name.leak());
    let (logs, consul, grpc_go) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
    let (size, db, make, attacks) = (Size::Usual, Database::Sqlite, Make::Ours, Vec::new());
    Setting { size, without, logs, consul, db, make, grpc_go, attacks }.channel_config()
}

/// Does what each line says, until there is none.
fn obey(target: &Target, mesh: &Mesh, healthy: &dyn Fn(bool)) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match line.parse() {
            Ok(Order::Report) => serde_json::to_string(&target.ledger.take()).map(|r| format!("report {r}")),
            Ok(Order::State) => serde_json::to_string(&mesh.state()).map(|state| format!("state {state}")),
            Ok(Order::Healthy(well)) => {
                healthy(well);
                Ok(format!("now {line}"))
            }
            Ok(Order::Behave(act)) => {
                target.behaviour.set(act);
                Ok(format!("now {line}"))
            }
            Err(why) => Ok(format!("what? {why}")),
        };
        let mut out = io::stdout().lock();
        let _ = answer.map(|answer| writeln!(out, "{answer}").and_then(|()| out.flush()));
    }
}

/// The service.
#[derive(Debug)]
struct Target {
    work: Duration,
    /// How many calls may do their work at once.
    slots: Option<Semaphore>,
    behaviour: Behaviour,
    ledger: Ledger,
    next: Option<TargetServiceClient<registry_client::Channel>>,
    /// Whether it does not pass on what is left of a call's time.
    forgets: bool,
}

impl Target {
    async fn handle<T>(&self, request: Request<T>) -> Result<(), Status> {
        let _entry = self.ledger.enter(request.metadata());
        let slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        self.behaviour.act(self.work).await?;
        drop(slot);
        if let Some(next) = &self.next {
            let mut next = next.clone();
            if self.forgets {
                // Another task knows nothing of the call that it works for.
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
        // Never more than a message may have anyway.
        let bytes = (request.get_ref().answer_bytes as usize).min(4 << 20);
        self.handle(request).await?;
        Ok(Response::new(ReadResponse { body: vec![0; bytes] }))
    }

    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        self.handle(request).await?;
        Ok(Response::new(WriteResponse {}))
    }
}
