//! `mesh explain`: where the calls to a service go and why, from the view of
//! its callers.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Result, bail};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cli::ExplainArgs, discover::RunningMesh, exit::Exit, state::Process, table::table, terminal::print_line,
};

mod fetch;

/// The output of `--json`. The field names are a contract.
#[derive(Debug, Serialize)]
struct Explanation {
    service: String,
    /// The processes that have a channel to it.
    processes: Vec<ProcessView>,
    /// The processes that could not be queried, and why.
    silent: Vec<UnreachableProcess>,
}

/// The state of one process's channel.
#[derive(Debug, Serialize)]
struct ProcessView {
    process: String,
    admin: SocketAddr,
    pid: u64,
    /// The channel as `/debug/mesh` reports it.
    channel: Value,
}

#[derive(Clone, Debug, Serialize)]
struct UnreachableProcess {
    process: String,
    why: String,
}

/// A process with an admin endpoint.
struct AdminEndpoint {
    name: String,
    admin: SocketAddr,
}

/// Queries the processes and prints their views.
///
/// # Errors
/// When no process responds, or none of them calls the service.
pub(crate) async fn run(args: ExplainArgs) -> Result<Exit> {
    let (endpoints, mut silent) = processes(&args)?;
    let states = join_all(endpoints.iter().map(|process| fetch::state(process.admin))).await;
    let mut views = Vec::new();
    let mut called = BTreeSet::new();
    let mut responded = 0;
    for (process, state) in endpoints.iter().zip(states) {
        match state {
            Ok(state) => {
                responded += 1;
                called.extend(services(&state));
                views.extend(view(process, &state, &args.service));
            }
            Err(why) => {
                silent.push(UnreachableProcess { process: process.name.clone(), why: format!("{why:#}") });
            }
        }
    }
    if views.is_empty() {
        return Err(no_channel(&args.service, responded, &called, &silent));
    }
    let explanation = Explanation { service: args.service, processes: views, silent };
    let channels = explanation.channels()?;
    print_line(if args.json {
        serde_json::to_string_pretty(&explanation)?
    } else {
        explanation.text(&channels)
    });
    Ok(if channels.iter().all(|channel| channel.ready > 0) { Exit::Success } else { Exit::NotReady })
}

/// The processes to query, and those that cannot be queried.
fn processes(args: &ExplainArgs) -> Result<(Vec<AdminEndpoint>, Vec<UnreachableProcess>)> {
    let named: Vec<_> =
        args.admin.iter().map(|&admin| AdminEndpoint { name: admin.to_string(), admin }).collect();
    if !named.is_empty() {
        return Ok((named, Vec::new()));
    }
    let found = RunningMesh::find(&args.location)?;
    let is_selected = |process: &&Process| args.process.as_ref().is_none_or(|name| is_named(process, name));
    let (mut endpoints, mut silent) = (Vec::new(), Vec::new());
    for process in found.processes.iter().filter(is_selected) {
        let name = process.name.clone();
        let admin = process.admin.as_deref().and_then(|admin| admin.parse().ok());
        match (process.pid, admin) {
            (None, _) => silent.push(UnreachableProcess { process: name, why: "it is down".to_owned() }),
            (_, None) => {
                silent.push(UnreachableProcess { process: name, why: "it has no admin endpoint".to_owned() });
            }
            (Some(_), Some(admin)) => endpoints.push(AdminEndpoint { name, admin }),
        }
    }
    if endpoints.is_empty() && silent.is_empty() {
        match &args.process {
            Some(name) if !found.processes.is_empty() => {
                let known: Vec<_> = found.processes.iter().map(|p| p.name.as_str()).collect();
                bail!("there is no process `{name}`; there are {}", known.join(", "))
            }
            _ => bail!(
                "no `mesh up` is known to run processes on {}: name its --state-dir, or give a process's CONSORT_ADMIN \
                 address with --admin",
                found.registry
            ),
        }
    }
    Ok((endpoints, silent))
}

fn is_named(process: &Process, name: &str) -> bool {
    process.name == name || process.service == name || process.id.as_deref() == Some(name)
}

fn channels(state: &Value) -> impl Iterator<Item = &Value> {
    state["channels"].as_array().into_iter().flatten()
}

fn services(state: &Value) -> impl Iterator<Item = String> + '_ {
    channels(state).filter_map(|channel| channel["service"].as_str().map(str::to_owned))
}

fn view(process: &AdminEndpoint, state: &Value, service: &str) -> Option<ProcessView> {
    let channel = channels(state).find(|channel| channel["service"] == service)?.clone();
    let pid = state["process"]["pid"].as_u64().unwrap_or_default();
    Some(ProcessView { process: process.name.clone(), admin: process.admin, pid, channel })
}

fn no_channel(
    service: &str,
    responded: usize,
    called: &BTreeSet<String>,
    silent: &[UnreachableProcess],
) -> anyhow::Error {
    if responded == 0 {
        let reasons: Vec<_> = silent.iter().map(|s| format!("{}: {}", s.process, s.why)).collect();
        return anyhow::anyhow!(
            "no process responds ({}); check that it runs with CONSORT_ADMIN set, and read its log",
            reasons.join("; ")
        );
    }
    let called: Vec<_> = called.iter().map(String::as_str).collect();
    let known = if called.is_empty() { "no service".to_owned() } else { called.join(", ") };
    anyhow::anyhow!(
        "none of {responded} processes has a channel to `{service}`, only to {known}; a process creates a channel with \
             `mesh.channel`"
    )
}

/// A channel, with the fields that a table shows.
#[derive(Debug, Deserialize)]
struct Channel {
    balancer: String,
    ready: usize,
    why_none: Option<String>,
    resolver_error: Option<String>,
    instances: Vec<Instance>,
    calls: u64,
    attempts: u64,
    retries: u64,
    hedges: u64,
    ejections: u64,
}

#[derive(Debug, Deserialize)]
struct Instance {
    id: String,
    address: String,
    ready: bool,
    why: String,
    decided_by: Option<String>,
    registry: String,
    watch: String,
    connection: String,
    connections: usize,
    in_flight: u64,
    weight: u64,
    ejections: u64,
}

impl Explanation {
    /// # Errors
    /// When a process of another version reports other fields.
    fn channels(&self) -> Result<Vec<Channel>> {
        let read = |view: &ProcessView| {
            Channel::deserialize(&view.channel).map_err(|why| {
                anyhow::anyhow!(
                    "{} reports its channels in a format that this `mesh` does not know ({why}); use the same version",
                    view.process
                )
            })
        };
        self.processes.iter().map(read).collect()
    }

    fn text(&self, channels: &[Channel]) -> String {
        let mut out = String::new();
        for (view, channel) in self.processes.iter().zip(channels) {
            out.push_str(&format!("{} (process {}) calls {}: ", view.process, view.pid, self.service));
            out.push_str(&channel.text());
            out.push('\n');
        }
        for silent in &self.silent {
            out.push_str(&format!("{} was not queried: {}\n", silent.process, silent.why));
        }
        out
    }
}

impl Channel {
    fn text(&self) -> String {
        let Self { balancer, ready, calls, attempts, retries, hedges, ejections, instances, .. } = self;
        let mut out = format!(
            "{balancer} over {ready} of {}; {calls} calls, {attempts} attempts, {retries} retries, {hedges} hedges, \
             {ejections} ejections\n",
            instances.len()
        );
        for trouble in self.why_none.iter().chain(&self.resolver_error) {
            out.push_str(&format!("  ! {trouble}\n"));
        }
        let head = [
            "  INSTANCE",
            "ADDRESS",
            "CALLS GO",
            "DECIDED BY",
            "REGISTRY",
            "WATCH",
            "CONNECTION",
            "OPEN",
            "IN FLIGHT",
            "WEIGHT",
            "EJECTIONS",
            "WHY",
        ];
        let rows: Vec<_> = instances.iter().map(Instance::row).collect();
        out.push_str(&table(head, &rows));
        out
    }
}

impl Instance {
    fn row(&self) -> [String; 12] {
        [
            format!("  {}", self.id),
            self.address.clone(),
            if self.ready { "in" } else { "out" }.to_owned(),
            self.decided_by.clone().unwrap_or_default(),
            self.registry.clone(),
            self.watch.clone(),
            self.connection.clone(),
            self.connections.to_string(),
            self.in_flight.to_string(),
            self.weight.to_string(),
            self.ejections.to_string(),
            self.why.lines().next().unwrap_or_default().to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state() -> Value {
        json!({
            "process": {"pid": 7},
            "servers": [],
            "channels": [{
                "service": "cart-service", "balancer": "least_request", "ready": 1,
                "why_none": null, "resolver_error": "the agent is gone", "calls": 5, "attempts": 6,
                "retries": 1, "hedges": 0, "ejections": 2,
                "instances": [
                    {"id": "a", "address": "127.0.0.1:1", "ready": true, "why": "", "decided_by": null,
                     "registry": "passing", "watch": "serving", "connection": "ready", "connections": 1,
                     "in_flight": 3, "weight": 1, "ejections": 0},
                    {"id": "b", "address": "127.0.0.1:2", "ready": false, "why": "5 failures in a row",
                     "decided_by": "outlier", "registry": "passing", "watch": "serving",
                     "connection": "ready", "connections": 1, "in_flight": 0, "weight": 1, "ejections": 2},
                ],
            }],
        })
    }

    fn endpoints() -> AdminEndpoint {
        AdminEndpoint { name: "order-service-1".into(), admin: "127.0.0.1:9610".parse().unwrap() }
    }

    fn explanation() -> Explanation {
        let view = view(&endpoints(), &state(), "cart-service").unwrap();
        Explanation { service: "cart-service".into(), processes: vec![view], silent: vec![] }
    }

    #[test]
    fn json_has_exactly_the_promised_names() {
        let expected = json!({
            "service": "cart-service",
            "processes": [{
                "process": "order-service-1", "admin": "127.0.0.1:9610", "pid": 7,
                "channel": state()["channels"][0],
            }],
            "silent": [],
        });
        assert_eq!(serde_json::to_value(explanation()).unwrap(), expected);
    }

    #[test]
    fn a_table_says_which_instance_is_out_who_decided_and_why() {
        let explanation = explanation();
        let text = explanation.text(&explanation.channels().unwrap());
        assert!(
            text.starts_with("order-service-1 (process 7) calls cart-service: least_request over 1 of 2;")
        );
        assert!(text.contains("! the agent is gone"), "{text}");
        let out = text.lines().find(|line| line.contains("127.0.0.1:2")).unwrap();
        let cells: Vec<_> = out.split_whitespace().collect();
        assert_eq!(cells[2..4], ["out", "outlier"]);
        assert!(out.ends_with("5 failures in a row"), "{out}");
    }

    #[test]
    fn a_service_that_is_not_called_is_answered_with_those_that_are_called() {
        assert!(view(&endpoints(), &state(), "user-service").is_none());
        let called = services(&state()).collect();
        let text = no_channel("user-service", 1, &called, &[]).to_string();
        assert!(text.contains("`user-service`") && text.contains("cart-service"), "{text}");
        let down = UnreachableProcess { process: "order-service-1".into(), why: "refused".into() };
        let text = no_channel("cart-service", 0, &BTreeSet::new(), &[down]).to_string();
        assert!(text.contains("order-service-1: refused") && text.contains("CONSORT_ADMIN"), "{text}");
    }
}
