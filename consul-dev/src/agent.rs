//! `/v1/agent`: the services and checks of this agent.

mod checks;
mod health;
mod register;

#[cfg(feature = "fuzzing")]
pub use register::fuzz_registration;

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::json;

pub(crate) use checks::{
    deregister_check, node_maintenance, register_check, service_maintenance, set_check, update_check,
};
pub(crate) use health::{by_id as health_by_id, by_name as health_by_name};
pub(crate) use register::{deregister_service, register_service};

use crate::blocking::{QueryView, wait_for, with_jitter};
use crate::context::Context;
use crate::filter::{self, Filter};
use crate::model::CONSUL_VERSION;
use crate::request::{Request, wait_time};
use crate::response::{self, ErrorResponse, HttpResponse};
use crate::store::AgentState;
use crate::wire::{AgentService, CheckShape, Object, node_meta};

/// `GET /v1/agent/self`; `DebugConfig` has only the fields that clients read.
pub(crate) fn describe(context: &Context, request: &Request) -> HttpResponse {
    let node = &context.node;
    let (services, checks) =
        context.store.read(|state| (state.local.services.len(), state.local.checks.len()));
    let body = json!({
        "Config": {
            "Datacenter": node.datacenter, "PrimaryDatacenter": node.datacenter,
            "NodeName": node.name, "NodeID": node.id,
            "Revision": "", "Server": true, "Version": CONSUL_VERSION,
            "BuildDate": BUILD_DATE, "BindAddr": node.address,
        },
        "DebugConfig": {
            "DevMode": true, "Datacenter": node.datacenter, "NodeName": node.name,
            "DefaultIntentionPolicy": "", "ACLsEnabled": false,
            "UseStreamingBackend": true, "HTTPMaxConnsPerClient": 200,
        },
        "Coord": null,
        "Member": {
            "Name": node.name, "Addr": node.address, "Port": node.port,
            "Tags": {"dc": node.datacenter, "id": node.id, "role": "consul"},
            "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2,
            "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
        },
        "Stats": {
            "agent": {
                "check_monitors": "0", "checks": checks.to_string(), "services": services.to_string(),
                "implementation": concat!("consul-dev ", env!("CARGO_PKG_VERSION")),
            },
            "build": {"prerelease": "", "revision": "", "version": CONSUL_VERSION, "version_metadata": ""},
        },
        "Meta": node_meta(),
    });
    response::json(StatusCode::OK, &body, request.pretty())
}

/// The build date of a Consul that was built without one.
const BUILD_DATE: &str = "1970-01-01T00:00:01Z";

/// `GET /v1/agent/version`.
pub(crate) fn version(request: &Request) -> HttpResponse {
    let body = Object(vec![
        ("SHA".to_owned(), ""),
        ("BuildDate".to_owned(), BUILD_DATE),
        ("HumanVersion".to_owned(), CONSUL_VERSION),
        ("FIPS".to_owned(), ""),
    ]);
    response::json(StatusCode::OK, &body, request.pretty())
}

/// `GET /v1/agent/services`.
pub(crate) fn services(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let filter = Filter::parse(request.query.get("filter"), filter::AGENT_SERVICE)?;
    let all = context.store.read(|state| {
        let shape = |(id, service): (&String, &_)| (id.clone(), AgentService::new(service, &context.node));
        state.local.services.iter().map(shape).collect::<Vec<_>>()
    });
    let filtered = all.into_iter().filter(|(_, service)| filter.matches(service)).collect();
    Ok(response::json(StatusCode::OK, &Object(filtered), request.pretty()))
}

/// `GET /v1/agent/checks`.
pub(crate) fn checks(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let filter = Filter::parse_for_agent_checks(request.query.get("filter"), filter::CHECK)?;
    let all = context.store.read(|state| {
        let shape = |(id, local): (&String, &crate::store::LocalCheck)| {
            (id.clone(), CheckShape::local(&local.check, &context.node))
        };
        state.local.checks.iter().map(shape).collect::<Vec<_>>()
    });
    let filtered = all.into_iter().filter(|(_, check)| filter.matches(check)).collect();
    Ok(response::json(StatusCode::OK, &Object(filtered), request.pretty()))
}

/// `GET /v1/agent/service/:id`; with `hash` it waits until the definition's hash differs or the
/// service is removed.
pub(crate) async fn service(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    let wait = with_jitter(wait_time(&request.query)?);
    request.reject_enterprise()?;
    let id = request.rest.as_str();
    let find = |state: &AgentState| {
        let service = state.local.services.get(id)?;
        let mut shape = AgentService::new(service, &context.node);
        shape.content_hash = Some(shape.hash());
        Some(shape)
    };
    let given_hash = request.query.get("hash");
    if !given_hash.is_empty() {
        // Hashes have no order, so the query waits on an index that is 2 if the hash differs, else 1.
        let differs = |state: &AgentState| {
            let now = find(state).and_then(|service| service.content_hash);
            QueryView::at(if now.as_deref() == Some(given_hash) { 1 } else { 2 })
        };
        wait_for(&context.store, 1, wait, differs).await;
    }
    let Some(service) = context.store.read(find) else {
        return Err(ErrorResponse::not_found(format!("unknown service ID: {id}")));
    };
    let mut response = response::json(StatusCode::OK, &service, request.pretty());
    response::set(&mut response, "x-consul-contenthash", service.content_hash.as_deref().unwrap_or_default());
    Ok(response)
}

/// The error for a service id that is not registered here.
fn unknown_service(id: &str) -> ErrorResponse {
    ErrorResponse::not_found(format!(
        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
    ))
}

/// The error for a check id that is not registered here.
fn unknown_check(id: &str) -> ErrorResponse {
    ErrorResponse::not_found(format!(
        "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
    ))
}

/// Formats several errors as Consul does.
fn error_list(errors: &[String]) -> String {
    let mut text = match errors.len() {
        1 => "1 error occurred:".to_owned(),
        several => format!("{several} errors occurred:"),
    };
    for error in errors {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n\t* {error}");
    }
    text + "\n\n"
}
