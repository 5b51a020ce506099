//! What a server registers of itself, as its agent and the catalogue have it.

use std::{net::SocketAddr, time::Duration};

use registry_client::{
    AdminConfig, Mesh, MeshBuilder, ServerConfig,
    consul::{AgentService, CheckStatus, Client, ConsulResolver, HealthQuery},
    instance::{Instance, InstanceHealth, LOCALITY, Locality, METRICS_PORT},
    resolve::Resolver,
    server::Server,
};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    consul::agents::{TestAgent, eventually, on_each_agent},
    scripted::Scripted,
    server::within,
};

on_each_agent!(
    a_servers_verdict_turns_after_as_many_checks_as_it_is_set_to,
    a_server_registers_its_weight_and_where_it_runs,
    a_server_registers_where_others_reach_its_metrics,
);

fn mesh(agent: &TestAgent, config: ServerConfig) -> MeshBuilder {
    Mesh::builder().consul(agent.client()).server_config(config)
}

type Run = AbortOnDropHandle<Result<(), registry_client::Error>>;

/// Runs the server until the returned task is dropped, which deregisters
/// nothing.
fn run(server: Server, listener: TcpListener) -> Run {
    let server = server.add_service(Scripted::default());
    AbortOnDropHandle::new(tokio::spawn(server.run(listener, std::future::pending())))
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The one instance of `test` in the catalogue.
async fn listed(client: &Client) -> Option<AgentService> {
    Some(client.health("test", &HealthQuery::default()).await.ok()?.pop()?.service)
}

async fn turns(client: &Client, condition: CheckStatus) -> Duration {
    let began = Instant::now();
    let has_turned = || async {
        let entries = client.health("test", &HealthQuery::default()).await.unwrap_or_default();
        let mut checks = entries.iter().flat_map(|entry| &entry.checks);
        checks.any(|check| check.kind == "grpc" && check.status == condition)
    };
    eventually("its check turns", has_turned).await;
    began.elapsed()
}

async fn a_servers_verdict_turns_after_as_many_checks_as_it_is_set_to(agent: TestAgent) {
    let mut config = ServerConfig::default();
    (config.success_before_passing, config.failures_before_critical) = (2, 3);
    let mesh = mesh(&agent, config).build().unwrap();
    let server = mesh.serve("test");
    let (health, client) = (server.health(), agent.client());
    let _run = run(server, listener().await);
    let took = turns(&client, CheckStatus::Passing).await;
    assert!(took < Duration::from_secs(4), "the first check decides alone, and it took {took:?}");
    // One check a second: a single one would decide within one.
    health.report("test.v1.Scripted", false);
    let took = turns(&client, CheckStatus::Critical).await;
    assert!(took > Duration::from_millis(1_900), "three checks in {took:?}");
    health.report("test.v1.Scripted", true);
    let took = turns(&client, CheckStatus::Passing).await;
    assert!(took > Duration::from_millis(900), "two checks in {took:?}");
}

async fn a_server_registers_its_weight_and_where_it_runs(agent: TestAgent) {
    let client = agent.client();
    let knows_localities = client.version().await.unwrap().at_least(1, 16);
    let mut config = ServerConfig::default();
    config.weight = 3;
    config.locality = Some(Locality::new("eu", "").unwrap());
    let mesh = mesh(&agent, config).build().unwrap();
    let overridden = |zone| mesh.serve("test").weight(7).locality("us", zone);
    let mut view = ConsulResolver::new(client.clone()).resolve(&"test".parse().unwrap());
    let mut at = "127.0.0.1:0".parse::<SocketAddr>().unwrap();
    // Each takes the address of the one before, which was killed.
    for (server, weight, region, zone) in
        [(mesh.serve("test"), 3, "eu", ""), (overridden("a"), 7, "us", "a"), (overridden("b"), 7, "us", "b")]
    {
        let listener = TcpListener::bind(at).await.unwrap();
        at = listener.local_addr().unwrap();
        let run = run(server, listener);
        let locality = Locality::new(region, zone).unwrap();
        let is_it = |instance: &Instance| {
            instance.meta.get(LOCALITY) == Some(&locality.to_string())
                && instance.weight == weight
                && instance.health == InstanceHealth::Passing
        };
        let passes = view.wait_for(|now| now.instances.as_deref().is_some_and(|set| set.iter().any(is_it)));
        let found = within(passes).await.unwrap().instances.clone().unwrap();
        assert_eq!((found.len(), &found[0].address), (1, &at.into()));
        assert_eq!(found[0].locality, Some(locality).filter(|_| knows_localities));
        let own = client.service(found[0].id.registered()).await.unwrap();
        assert_eq!((own.weights.passing, own.weights.warning), (i64::from(weight), i64::from(weight)));
        drop(run);
        eventually("its address is free", || async { TcpListener::bind(at).await.is_ok() }).await;
    }
}

async fn a_server_registers_where_others_reach_its_metrics(agent: TestAgent) {
    let client = agent.client();
    struct Case {
        admin: Option<&'static str>,
        page: bool,
        advertise: Option<&'static str>,
        own: Option<&'static str>,
        registers: bool,
    }
    let usual =
        || Case { admin: Some("127.0.0.1:0"), page: true, advertise: None, own: None, registers: true };
    let cases = [
        usual(),
        Case { admin: Some("0.0.0.0:0"), advertise: Some("10.0.0.7"), ..usual() },
        Case { own: Some("9"), ..usual() },
        Case { admin: None, registers: false, ..usual() },
        Case { page: false, registers: false, ..usual() },
        Case { advertise: Some("10.0.0.7"), registers: false, ..usual() },
    ];
    for Case { admin, page, advertise, own, registers } in cases {
        let mut config = ServerConfig::default();
        config.advertise = advertise.map(|host| host.parse().unwrap());
        let mut mesh = mesh(&agent, config);
        if page {
            mesh = mesh.metrics_page(|| Ok::<_, String>(String::new()));
        }
        let mesh = mesh.build().unwrap();
        let mut port = None;
        if let Some(address) = admin {
            let mut config = AdminConfig::new(address.parse().unwrap());
            config.anywhere = true;
            port = Some(mesh.admin(&config).await.unwrap().port().to_string());
        }
        let mut server = mesh.serve("test");
        if let Some(own) = own {
            server = server.meta(METRICS_PORT, own);
            port = Some(own.to_owned());
        }
        let run = run(server, listener().await);
        eventually("the catalogue has it", || async { listed(&client).await.is_some() }).await;
        let service = listed(&client).await.unwrap();
        assert_eq!(
            service.meta.get(METRICS_PORT),
            port.as_ref().filter(|_| registers),
            "{admin:?} {advertise:?}"
        );
        drop(run);
        client.deregister(&service.id).await.unwrap();
        eventually("the catalogue has nothing", || async { listed(&client).await.is_none() }).await;
    }
}
