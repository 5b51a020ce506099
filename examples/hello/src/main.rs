//! Two greeters and a front that calls them, each registered in Consul and
//! found through it.
//!
//! `cargo run -p hello` uses the Consul agent at `CONSUL_HTTP_ADDR`
//! (127.0.0.1:8500 unless set) or, where none runs, an agent in this process.
//! Both greeters respond in turn; then everything stops. `RUST_LOG=info` shows
//! the registrations and connections.

use std::{io::Write, time::Duration};

use anyhow::Context;
use registry_client::{
    ChannelConfig, Error, Mesh, ServerConfig,
    balance::Balancer,
    consul::{self, ConsulResolver},
    instance::{Instance, InstanceHealth},
    resolve::{Resolution, Resolver},
    server::Server,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use proto::{
    WelcomeRequest, front_client::FrontClient, front_server::FrontServer, greeter_server::GreeterServer,
};
use services::{Greetings, Welcomes};

mod services;

mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::doc_markdown,
        clippy::too_many_lines,
        clippy::use_self,
        reason = "generated"
    )]
    tonic::include_proto!("hello.v1");

    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(levels).with_writer(std::io::stderr).init();
    let (consul, _agent) = registry().await?;
    let mesh = mesh(consul.clone())?;

    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    for instance in ["greeter one", "greeter two"] {
        let greeter = GreeterServer::new(Greetings { instance: instance.to_owned() });
        start(&mut servers, mesh.serve("greeter").add_service(greeter), &stop).await?;
    }
    let front = FrontServer::new(Welcomes::new(&mesh));
    start(&mut servers, mesh.serve("front").add_service(front), &stop).await?;

    wait_for(&consul, "greeter", 2).await?;
    wait_for(&consul, "front", 1).await?;
    let mut front = FrontClient::new(mesh.channel("front"));
    for visitor in ["Ada", "Grace", "Barbara", "Frances", "Jean", "Margaret"] {
        let request = WelcomeRequest { visitor: visitor.to_owned() };
        let response = front.welcome(request).await.context("could not call the front")?;
        writeln!(std::io::stdout(), "{}", response.into_inner().text)?;
    }

    stop.cancel();
    while let Some(stopped) = servers.join_next().await {
        stopped?.context("a server failed")?;
    }
    Ok(())
}

/// The agent at `CONSUL_HTTP_ADDR` if it responds, else one in this process.
async fn registry() -> anyhow::Result<(consul::Client, Option<consul_dev::Agent>)> {
    let client = consul::Client::from_env().context("could not read the CONSUL_ variables")?;
    if client.leader().await.is_ok() {
        return Ok((client, None));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.context("could not open a port")?;
    let agent = consul_dev::Agent::start(listener, consul_dev::Options::default())?;
    Ok((consul::Client::builder(&agent.url()).build()?, Some(agent)))
}

fn mesh(consul: consul::Client) -> Result<Mesh, Error> {
    let mut calls = ChannelConfig::default();
    calls.balancer = Balancer::RoundRobin;
    // No other process calls these, so no client needs time to notice that they
    // stop.
    let mut serving = ServerConfig::default();
    serving.drain = Duration::ZERO;
    Mesh::builder()
        .consul(consul)
        .descriptors(proto::DESCRIPTORS)
        .channel_config(calls)
        .server_config(serving)
        .build()
}

/// Waits until `count` instances of `service` pass their health check. A call
/// waits for the first one itself, but this example shows two.
async fn wait_for(consul: &consul::Client, service: &str, count: usize) -> anyhow::Result<()> {
    let mut view = ConsulResolver::new(consul.clone()).resolve(&service.parse()?);
    let enough = |now: &Resolution| {
        let passing = |instance: &&Instance| instance.health == InstanceHealth::Passing;
        now.instances.as_ref().is_some_and(|all| all.iter().filter(passing).count() >= count)
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), view.wait_for(enough)).await;
    waited.with_context(|| format!("{count} instances of `{service}` did not pass within 30 s"))??;
    Ok(())
}

/// Runs `server` on a free port until `stop`.
async fn start(
    servers: &mut JoinSet<Result<(), Error>>,
    server: Server,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("could not open a port")?;
    servers.spawn(server.run(listener, stop.clone().cancelled_owned()));
    Ok(())
}
