//! `mesh status`: every instance and its health, as the registry says it.

use std::time::Duration;

use anyhow::{Result, bail};
use registry_client::{
    instance::ServiceName,
    resolve::{Resolution, Resolver},
};
use serde::Serialize;

use crate::{
    Exit, cli::StatusArgs, found::Found, out::say, services::Service, state::Process, table::table,
    up::overview::health_name,
};

/// How long the registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `--json` prints. Its names are a contract.
#[derive(Debug, Serialize)]
struct Status {
    registry: String,
    /// Whether there are instances, and all are passing.
    ready: bool,
    instances: Vec<Line>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    service: String,
    /// Null when the registry never listed it.
    id: Option<String>,
    address: String,
    /// Null where it is not a process of a `mesh up` that is found here.
    pid: Option<u32>,
    health: &'static str,
    /// The registry's words; empty when it passes.
    reason: String,
    /// Where the instance tells of itself, `HOST:PORT`; null when it is not known to.
    admin: Option<String>,
    /// When `mesh up` first saw this health; null when nobody watched.
    since: Option<String>,
}

/// Asks the registry and prints what it says.
///
/// # Errors
/// When no mesh is found or its registry does not answer.
pub(crate) async fn run(args: StatusArgs) -> Result<Exit> {
    let found = Found::find(&args.whereabouts)?;
    let resolver = found.resolver()?;
    let mut instances = Vec::new();
    for (service, resolution) in ask(&resolver).await? {
        instances.extend(lines(service, &resolution, &found.processes));
    }
    let ready = !instances.is_empty() && instances.iter().all(|line| line.health == "passing");
    let status = Status { registry: found.registry, ready, instances };
    if args.json {
        say(serde_json::to_string_pretty(&status)?);
    } else {
        say(status.text());
    }
    Ok(if ready { Exit::Fine } else { Exit::NotReady })
}

/// What the registry says of every service of the shop, all asked at once.
async fn ask(resolver: &dyn Resolver) -> Result<Vec<(Service, Resolution)>> {
    let mut views = Vec::new();
    for service in Service::ALL {
        let name: ServiceName = service.name().parse()?;
        views.push((service, resolver.resolve(&name)));
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    for (service, mut view) in views {
        let answered = |r: &Resolution| r.instances.is_some() || r.error.is_some();
        let answer = tokio::time::timeout_at(deadline, view.wait_for(answered)).await;
        let resolution = match answer {
            Ok(Ok(resolution)) => resolution.clone(),
            Ok(Err(_)) => bail!("the look-up of {service} ended without an answer"),
            Err(_) => bail!("the registry did not answer within {PATIENCE:?}; see whether it runs"),
        };
        match (&resolution.instances, &resolution.error) {
            (None, Some(error)) => bail!("{error}"),
            _ => answers.push((service, resolution)),
        }
    }
    Ok(answers)
}

/// A line for each instance the registry lists, and for each process of ours
/// that it does not.
fn lines(service: Service, resolution: &Resolution, processes: &[Process]) -> Vec<Line> {
    let listed = resolution.instances.as_deref().unwrap_or_default();
    let mut out: Vec<_> = listed
        .iter()
        .map(|instance| {
            let (id, address) = (instance.id.to_string(), instance.address.to_string());
            let ours = processes.iter().find(|p| p.service == service.name() && p.address == address);
            let health = health_name(instance.health);
            Line {
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
    out.extend(missing.filter(|p| listed.iter().all(|i| i.address.to_string() != p.address)).map(|p| Line {
        service: p.service.clone(),
        id: p.id.clone(),
        address: p.address.clone(),
        pid: p.pid,
        health: "critical",
        reason: "not in the registry".to_owned(),
        admin: p.admin.clone().filter(|_| p.pid.is_some()),
        since: None,
    }));
    out.sort_by(|a, b| a.address.cmp(&b.address));
    out
}

impl Status {
    fn text(&self) -> String {
        let head = ["SERVICE", "INSTANCE", "ADDRESS", "PID", "HEALTH", "SINCE", "REASON"];
        let rows: Vec<_> = self
            .instances
            .iter()
            .map(|line| {
                let Line { service, id, address, pid, health, reason, since, .. } = line.clone();
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
        let found = Resolution::found(vec![passing]);
        let status = Status {
            registry: "http://127.0.0.1:8500".into(),
            ready: true,
            instances: lines(Service::Cart, &found, &[process("127.0.0.1:1")]),
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
    fn a_date_is_told_only_of_the_health_it_belongs_to() {
        let mut critical = Instance::new("cart-a", "127.0.0.1:1".parse().unwrap());
        critical.health = InstanceHealth::Critical;
        critical.reason = "refused".into();
        let found = Resolution::found(vec![critical]);
        let line = lines(Service::Cart, &found, &[process("127.0.0.1:1")]).remove(0);
        assert_eq!((line.health, line.reason.as_str(), line.since), ("critical", "refused", None));
    }

    #[test]
    fn a_process_of_ours_that_the_registry_lost_is_shown_and_one_of_others_too() {
        let strange = Instance::new("cart-z", "10.0.0.9:1".parse().unwrap());
        let found = Resolution::found(vec![strange]);
        let lines = lines(Service::Cart, &found, &[process("127.0.0.1:1")]);
        assert_eq!(
            (lines[0].id.as_deref(), lines[0].pid, lines[0].health),
            (Some("cart-z"), None, "passing")
        );
        assert_eq!((lines[1].id.as_deref(), lines[1].pid, lines[1].health), (None, Some(7), "critical"));
    }
}
