//! `/v1/agent`: what is registered with this agent.

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

use crate::Context;
use crate::answer::{self, Answer, Failure};
use crate::blocking::{Seen, jittered, wait_for};
use crate::filter::{self, Filter};
use crate::model::CONSUL_VERSION;
use crate::request::{Request, wait_of};
use crate::store::State;
use crate::wire::{AgentService, CheckShape, Object, node_meta};

/// `GET /v1/agent/self`, with what this agent truly is; `DebugConfig` names only what clients look at.
pub(crate) fn describe(context: &Context, request: &Request) -> Answer {
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
    answer::json(StatusCode::OK, &body, request.pretty())
}

/// A release's build date; ours has none, and the real one built from its module says this.
const BUILD_DATE: &str = "1970-01-01T00:00:01Z";

/// `GET /v1/agent/version`.
pub(crate) fn version(request: &Request) -> Answer {
    let body = Object(vec![
        ("SHA".to_owned(), ""),
        ("BuildDate".to_owned(), BUILD_DATE),
        ("HumanVersion".to_owned(), CONSUL_VERSION),
        ("FIPS".to_owned(), ""),
    ]);
    answer::json(StatusCode::OK, &body, request.pretty())
}

/// `GET /v1/agent/services`.
pub(crate) fn services(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let filter = Filter::parse(request.query.get("filter"), filter::AGENT_SERVICE)?;
    let all = context.store.read(|state| {
        let shape = |(id, service): (&String, &_)| (id.clone(), AgentService::new(service, &context.node));
        state.local.services.iter().map(shape).collect::<Vec<_>>()
    });
    let kept = all.into_iter().filter(|(_, service)| filter.keeps(service)).collect();
    Ok(answer::json(StatusCode::OK, &Object(kept), request.pretty()))
}

/// `GET /v1/agent/checks`.
pub(crate) fn checks(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let filter = Filter::parse_at_use(request.query.get("filter"), filter::CHECK)?;
    let all = context.store.read(|state| {
        let shape = |(id, local): (&String, &crate::store::LocalCheck)| {
            (id.clone(), CheckShape::local(&local.check, &context.node))
        };
        state.local.checks.iter().map(shape).collect::<Vec<_>>()
    });
    let kept = all.into_iter().filter(|(_, check)| filter.keeps(check)).collect();
    Ok(answer::json(StatusCode::OK, &Object(kept), request.pretty()))
}

/// `GET /v1/agent/service/:id`; with `hash` it waits until the definition has another one, or is gone.
pub(crate) async fn service(context: &Context, request: &Request) -> Result<Answer, Failure> {
    let wait = jittered(wait_of(&request.query)?);
    request.refuse_enterprise()?;
    let id = request.rest.as_str();
    let find = |state: &State| {
        let service = state.local.services.get(id)?;
        let mut shape = AgentService::new(service, &context.node);
        shape.content_hash = Some(shape.hash());
        Some(shape)
    };
    let asked = request.query.get("hash");
    if !asked.is_empty() {
        // Hashes have no order, so the waiting is done on "is it another one": index 2 says yes, 1 says no.
        let differs = |state: &State| {
            let now = find(state).and_then(|service| service.content_hash);
            Seen::at(if now.as_deref() == Some(asked) { 1 } else { 2 })
        };
        wait_for(&context.store, 1, wait, differs).await;
    }
    let Some(found) = context.store.read(find) else {
        return Err(Failure::not_found(format!("unknown service ID: {id}")));
    };
    let mut answer = answer::json(StatusCode::OK, &found, request.pretty());
    answer::set(&mut answer, "x-consul-contenthash", found.content_hash.as_deref().unwrap_or_default());
    Ok(answer)
}

/// The refusal of a service id that is not registered here.
fn unknown_service(id: &str) -> Failure {
    Failure::not_found(format!(
        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
    ))
}

/// The refusal of a check id that is not registered here.
fn unknown_check(id: &str) -> Failure {
    Failure::not_found(format!(
        "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
    ))
}

/// Several faults in the frame that Consul gives them.
fn listed(faults: &[String]) -> String {
    let mut text = match faults.len() {
        1 => "1 error occurred:".to_owned(),
        several => format!("{several} errors occurred:"),
    };
    for fault in faults {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n\t* {fault}");
    }
    text + "\n\n"
}
