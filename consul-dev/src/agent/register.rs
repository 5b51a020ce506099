//! The registration and deregistration of services.

mod definition;
mod validate;

use std::net::IpAddr;

use tracing::info;

use super::unknown_service;
use crate::checks::{CheckSpec, start_probe};
use crate::context::Context;
use crate::duration::GoDuration;
use crate::model::{Check, CheckStatus, Service, TaggedAddress};
use crate::request::Request;
use crate::response::{self, ErrorResponse, HttpResponse};
use crate::store::NewCheck;
use definition::Definition;

/// `PUT /v1/agent/service/register`.
pub(crate) fn register_service(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let definition = Definition::decode(request.body()?)
        .map_err(|error| ErrorResponse::bad_request(format!("Request decode failed: {error}")))?;
    validate::definition(&definition)?;
    let Definition { mut service, checks, .. } = definition;
    for check in &checks {
        ensure_supported(check)?;
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
        service_check(context, &service, id, spec)
    });
    let checks = checks.collect();
    let replace = matches!(request.query.all("replace-existing-checks").next(), Some("" | "true"));
    info!(service = %service.id, name = %service.name, "registering a service");
    context.store.write(|state| state.register_service(service, checks, replace))?;
    Ok(response::accepted())
}

/// `PUT /v1/agent/service/deregister/:id`.
pub(crate) fn deregister_service(
    context: &Context,
    request: &Request,
) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let id = request.rest.as_str();
    if !context.store.write(|state| state.remove_service(id)) {
        return Err(unknown_service(id));
    }
    info!(service = %id, "deregistered a service");
    Ok(response::accepted())
}

/// Rejects the kinds of checks that are not run here.
pub(super) fn ensure_supported(check: &CheckSpec) -> Result<(), ErrorResponse> {
    match check.kind() {
        "script" | "docker" => Err(ErrorResponse::internal(
            "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
        )),
        "ttl" | "grpc" | "tcp" if !check.grpc_use_tls && !check.tcp_use_tls => Ok(()),
        kind => {
            let tls = if check.grpc_use_tls || check.tcp_use_tls { " with TLS" } else { "" };
            Err(ErrorResponse::bad_request(format!(
                "Invalid check: this development agent runs TTL, gRPC and TCP checks without TLS; a {kind} check{tls} needs a real Consul agent"
            )))
        }
    }
}

fn service_check(context: &Context, service: &Service, id: String, spec: &CheckSpec) -> NewCheck {
    let name =
        if spec.name.is_empty() { format!("Service '{}' check", service.name) } else { spec.name.clone() };
    // A service's check shows only given durations; `check/register` shows zeros as well.
    let shown = |duration: GoDuration| if duration.is_zero() { String::new() } else { duration.to_string() };
    let check = Check {
        name,
        interval: shown(spec.interval),
        timeout: shown(spec.timeout),
        service_id: service.id.clone(),
        service_name: service.name.clone(),
        service_tags: service.tags.clone(),
        ..check_from_spec(id, spec)
    };
    start_check(context, check, spec)
}

/// The check of a definition.
pub(super) fn check_from_spec(id: String, spec: &CheckSpec) -> Check {
    Check {
        id,
        name: spec.name.clone(),
        status: CheckStatus::from_name(&spec.status).unwrap_or_default(),
        notes: spec.notes.clone(),
        kind: spec.kind(),
        interval: spec.interval.to_string(),
        timeout: spec.timeout.to_string(),
        ..Check::default()
    }
}

/// The check with its probe running.
pub(super) fn start_check(context: &Context, check: Check, spec: &CheckSpec) -> NewCheck {
    /// The shortest time before a critical service is removed.
    const MIN_REAP_AFTER: std::time::Duration = std::time::Duration::from_secs(60);

    let reap_after = spec.reap_after.is_positive().then(|| spec.reap_after.as_std().max(MIN_REAP_AFTER));
    NewCheck { probe: Some(start_probe(&context.store, &check.id, spec)), check, reap_after }
}

/// Adds an address that is an IP as the service's address for local and remote callers of that family.
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

/// Decodes or rejects the body of a registration.
#[cfg(feature = "fuzzing")]
pub fn fuzz_registration(data: &[u8]) {
    let _ = Definition::decode(data);
}
