//! Registering and deregistering services.

mod definition;
mod validate;

use std::net::IpAddr;

use tracing::info;

use super::unknown_service;
use crate::Context;
use crate::answer::{self, Answer, Failure};
use crate::checks::{CheckSpec, Probe};
use crate::duration::GoDuration;
use crate::model::{Check, Service, Status, TaggedAddress};
use crate::request::Request;
use crate::store::NewCheck;
use definition::Definition;

/// `PUT /v1/agent/service/register`.
pub(crate) fn register_service(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let definition = Definition::decode(request.body()?)
        .map_err(|error| Failure::bad_request(format!("Request decode failed: {error}")))?;
    validate::definition(&definition)?;
    let Definition { mut service, checks, .. } = definition;
    for check in &checks {
        runnable(check)?;
    }
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    }
    add_own_addresses(&mut service);

    let count = checks.len();
    let checks = checks.iter().enumerate().map(|(at, spec)| {
        let id = match (spec.id.as_str(), count) {
            ("", 1) => format!("service:{}", service.id),
            ("", _) => format!("service:{}:{}", service.id, at + 1),
            (given, _) => given.to_owned(),
        };
        of_service(context, &service, id, spec)
    });
    let checks = checks.collect();
    let replace = matches!(request.query.all("replace-existing-checks").next(), Some("" | "true"));
    info!(service = %service.id, name = %service.name, "registering a service");
    context.store.write(|state| state.register_service(service, checks, replace))?;
    Ok(answer::done())
}

/// `PUT /v1/agent/service/deregister/:id`.
pub(crate) fn deregister_service(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let id = request.rest.as_str();
    if !context.store.write(|state| state.remove_service(id)) {
        return Err(unknown_service(id));
    }
    info!(service = %id, "deregistered a service");
    Ok(answer::done())
}

/// Refuses the kinds of checks that are not run here, so that nobody waits for their result.
pub(super) fn runnable(check: &CheckSpec) -> Result<(), Failure> {
    match check.kind() {
        "script" | "docker" => Err(Failure::internal(
            "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
        )),
        "ttl" | "grpc" | "tcp" if !check.grpc_use_tls && !check.tcp_use_tls => Ok(()),
        kind => {
            let tls = if check.grpc_use_tls || check.tcp_use_tls { " with TLS" } else { "" };
            Err(Failure::bad_request(format!(
                "Invalid check: this development agent runs TTL, gRPC and TCP checks without TLS; a {kind} check{tls} needs a real Consul agent"
            )))
        }
    }
}

fn of_service(context: &Context, service: &Service, id: String, spec: &CheckSpec) -> NewCheck {
    let name =
        if spec.name.is_empty() { format!("Service '{}' check", service.name) } else { spec.name.clone() };
    // Of a service's check only what was given is shown; `check/register` shows zeros as well.
    let shown = |duration: GoDuration| if duration.is_zero() { String::new() } else { duration.to_string() };
    let check = Check {
        name,
        interval: shown(spec.interval),
        timeout: shown(spec.timeout),
        service_id: service.id.clone(),
        service_name: service.name.clone(),
        service_tags: service.tags.clone(),
        ..described(id, spec)
    };
    started(context, check, spec)
}

/// The parts of a check that its definition gives.
pub(super) fn described(id: String, spec: &CheckSpec) -> Check {
    Check {
        id,
        name: spec.name.clone(),
        status: Status::from_name(&spec.status).unwrap_or_default(),
        notes: spec.notes.clone(),
        kind: spec.kind(),
        interval: spec.interval.to_string(),
        timeout: spec.timeout.to_string(),
        ..Check::default()
    }
}

/// The check with its probe running.
pub(super) fn started(context: &Context, check: Check, spec: &CheckSpec) -> NewCheck {
    /// A service is never removed sooner than this.
    const SHORTEST_REAP: std::time::Duration = std::time::Duration::from_secs(60);

    let reap_after = spec.reap_after.is_positive().then(|| spec.reap_after.as_std().max(SHORTEST_REAP));
    NewCheck { probe: Some(Probe::start(&context.store, &check.id, spec)), check, reap_after }
}

/// An address that is an IP is also the service's address for local and remote callers of that family.
fn add_own_addresses(service: &mut Service) {
    let tags = match service.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => ["lan_ipv4", "wan_ipv4"],
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => ["lan_ipv4", "wan_ipv4"],
        Ok(IpAddr::V6(_)) => ["lan_ipv6", "wan_ipv6"],
        Err(_) => return,
    };
    let own = TaggedAddress { address: service.address.clone(), port: service.default_port() };
    for tag in tags {
        service.tagged_addresses.entry(tag.to_owned()).or_insert_with(|| own.clone());
    }
}

/// The body of a registration: it is read, or refused.
#[cfg(feature = "fuzzing")]
pub fn fuzz_registration(data: &[u8]) {
    let _ = Definition::decode(data);
}
