//! `mesh status`: every instance and its health in the registry.

use std::time::Duration;

use anyhow::{Result, bail};
use registry_client::{
    instance::ServiceName,
    resolve::{Resolution, Resolver},
};
use serde::Serialize;

use crate::{
    cli::StatusArgs, discover::RunningMesh, exit::Exit, services::Service, state::Process, table::table,
    terminal::print_line, up::overview::health_name,
};

/// The limit on the registry's response.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// The output of `--json`. The field names are a contract.
#[derive(Debug, Serialize)]
struct StatusReport {
    registry: String,
    /// True if there are instances, and all are passing.
    ready: bool,
    instances: Vec<StatusLine>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct StatusLine {
    service: String,
    /// The instance id; null when the registry never listed it.
    id: Option<String>,
    address: String,
    /// The process id; null unless it is a process of the `mesh up` found here.
    pid: Option<u32>,
    health: &'static str,
    /// The registry's reason; empty when it is passing.
    reason: String,
    /// The instance's admin address, `HOST:PORT`; null when none is known.
    admin: Option<String>,
    /// The time when `mesh up` first saw this health; null without a `mesh up`.
    since: Option<String>,
}

/// Queries the registry and prints the instances.
///
/// # Errors
/// When no mesh is found or its registry does not respond.
pub(crate) async fn run(args: StatusArgs) -> Result<Exit> {
    let mesh = RunningMesh::find(&args.location)?;
    let resolver = mesh.resolver()?;
    let mut instances = Vec::new();
    for (service, resolution) in resolve_all(&resolver).await? {
        instances.extend(lines(service, &resolution, &mesh.processes));
    }
    let ready = !instances.is_empty() && instances.iter().all(|line| line.health == "passing");
    let status = StatusReport { registry: mesh.registry, ready, instances };
    if args.json {
        print_line(serde_json::to_string_pretty(&status)?);
    } else {
        print_line(status.text());
    }
    Ok(if ready { Exit::Success } else { Exit::NotReady })
}

/// Resolves every service of the shop, all at once.
async fn resolve_all(resolver: &dyn Resolver) -> Result<Vec<(Service, Resolution)>> {
    let mut views = Vec::new();
    for service in Service::ALL {
        let name: ServiceName = service.name().parse()?;
        views.push((service, resolver.resolve(&name)));
    }
    let deadline = tokio::time::Instant::now() + REGISTRY_TIMEOUT;
    let mut resolved = Vec::new();
    for (service, mut view) in views {
        let has_response = |r: &Resolution| r.instances.is_some() || r.error.is_some();
        let result = tokio::time::timeout_at(deadline, view.wait_for(has_response)).await;
        let resolution = match result {
            Ok(Ok(resolution)) => resolution.clone(),
            Ok(Err(_)) => bail!("the look-up of {service} ended without a response"),
            Err(_) => bail!("the registry did not respond within {REGISTRY_TIMEOUT:?}; check that it runs"),
        };
        match (&resolution.instances, &resolution.error) {
            (None, Some(error)) => bail!("{error}"),
            _ => resolved.push((service, resolution)),
        }
    }
    Ok(resolved)
}

/// A line for each instance that the registry lists, and for each process of
/// `mesh up` that it does not.
fn lines(service: Service, resolution: &Resolution, processes: &[Process]) -> Vec<StatusLine> {
    let entry = resolution.instances.as_deref().unwrap_or_default();
    let mut out: Vec<_> = entry
        .iter()
        .map(|instance| {
            let (id, address) = (instance.id.to_string(), instance.address.to_string());
            let ours = processes.iter().find(|p| p.service == service.name() && p.address == address);
            let health = health_name(instance.health);
            StatusLine {
                service: service.name().to_owned(),
                pid: ours.and_then(|p| p.pid),
                since: ours.filter(|p| p.health.as_deref() == Some(health)).and_then(|p| p.since.clone()),
                id: Some(id),
                address,
                health,
                reason: instance.reason.clone(),
                admin: ours.filter(|p| p.pid.is_some()).and_then(|p| p.admin.clone()),
            }
        })
        .collect();
    let missing = processes.iter().filter(|p| p.service == service.name());
    out.extend(missing.filter(|p| entry.iter().all(|i| i.address.to_string() != p.address)).map(|p| {
        StatusLine {
            service: p.service.clone(),
            id: p.id.clone(),
            address: p.address.clone(),
            pid: p.pid,
            health: "critical",
            reason: "not in the registry".to_owned(),
            admin: p.admin.clone().filter(|_| p.pid.is_some()),
            since: None,
        }
    }));
    out.sort_by(|a, b| a.address.cmp(&b.address));
    out
}

impl StatusReport {
    fn text(&self) -> String {
        let head = ["SERVICE", "INSTANCE", "ADDRESS", "PID", "HEALTH", "SINCE", "REASON"];
        let rows: Vec<_> = self
            .instances
            .iter()
            .map(|line| {
                let StatusLine { service, id, address, pid, health, reason, since, .. } = line.clone();
                let pid = pid.map(|p| p.to_string()).unwrap_or_default();
                let (id, since) = (id.unwrap_or_default(), since.unwrap_or_default());
                [service, id, address, pid, health.to_owned(), since, first_line(&reason)]
            })
            .collect();
        let verdict = match (self.ready, self.instances.is_empty()) {
            (true, _) => "all are passing",
            (false, true) => "no instance is registered",
            (false, false) => "not all are passing",
        };
        format!("registry {}: {verdict}\n\n{}", self.registry, table(head, &rows))
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use registry_client::instance::{Instance, InstanceHealth};

    use super::*;

    fn process(address: &str) -> Process {
        Process {
            name: "cart-service-1".into(),
            service: "cart-service".into(),
            admin: Some("127.0.0.1:9600".into()),
            id: None,
            address: address.into(),
            pid: Some(7),
            health: Some("passing".into()),
            since: Some("2026-01-01T00:00:00Z".into()),
            log: "x.log".into(),
        }
    }

    #[test]
    fn json_has_exactly_the_promised_names() {
        let passing = Instance::new("cart-a", "127.0.0.1:1".parse().unwrap());
        let mesh = Resolution::found(vec![passing]);
        let status = StatusReport {
            registry: "http://127.0.0.1:8500".into(),
            ready: true,
            instances: lines(Service::Cart, &mesh, &[process("127.0.0.1:1")]),
        };
        let expected = serde_json::json!({
            "registry": "http://127.0.0.1:8500",
            "ready": true,
            "instances": [{
                "service": "cart-service",
                "id": "cart-a",
                "address": "127.0.0.1:1",
                "pid": 7,
                "health": "passing",
                "reason": "",
                "admin": "127.0.0.1:9600",
                "since": "2026-01-01T00:00:00Z",
            }],
        });
        assert_eq!(serde_json::to_value(&status).unwrap(), expected);
    }

    #[test]
    fn a_date_is_shown_only_with_the_health_it_belongs_to() {
        let mut critical = Instance::new("cart-a", "127.0.0.1:1".parse().unwrap());
        critical.health = InstanceHealth::Critical;
        critical.reason = "refused".into();
        let mesh = Resolution::found(vec![critical]);
        let line = lines(Service::Cart, &mesh, &[process("127.0.0.1:1")]).remove(0);
        assert_eq!((line.health, line.reason.as_str(), line.since), ("critical", "refused", None));
    }

    #[test]
    fn a_process_that_the_registry_lost_is_shown_and_a_foreign_instance_too() {
        let strange = Instance::new("cart-z", "10.0.0.9:1".parse().unwrap());
        let mesh = Resolution::found(vec![strange]);
        let lines = lines(Service::Cart, &mesh, &[process("127.0.0.1:1")]);
        assert_eq!(
            (lines[0].id.as_deref(), lines[0].pid, lines[0].health),
            (Some("cart-z"), None, "passing")
        );
        assert_eq!((lines[1].id.as_deref(), lines[1].pid, lines[1].health), (None, Some(7), "critical"));
    }
}
