//! Registering checks, setting TTL checks, and maintenance.

use tracing::info;

use super::register::{described, runnable, started};
use super::{unknown_check, unknown_service};
use crate::Context;
use crate::answer::{self, Answer, Failure};
use crate::checks::{self, CheckSpec, Within};
use crate::decode::{DecodeError, fill, object};
use crate::model::{Check, NODE_MAINTENANCE, SERVICE_MAINTENANCE, Status};
use crate::request::{Request, parse_bool};
use crate::store::NewCheck;

/// `PUT /v1/agent/check/register`.
pub(crate) fn register_check(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let spec = object(request.body()?, "structs.CheckDefinition")
        .and_then(|members| CheckSpec::read(members, "", Within::CheckRegister))
        .map_err(decode_failed)?;
    if spec.name.is_empty() {
        return Err(Failure::bad_request("Missing check name"));
    }
    if !spec.status.is_empty() && Status::from_name(&spec.status).is_none() {
        return Err(Failure::bad_request("Bad check status"));
    }
    spec.validate().map_err(|why| Failure::bad_request(format!("Invalid check: {why}")))?;
    let id = if spec.id.is_empty() { spec.name.clone() } else { spec.id.clone() };
    let mut check = described(id, &spec);
    check.service_id.clone_from(&spec.service_id);
    let owner = context.store.read(|state| state.local.services.get(&spec.service_id).cloned());
    match owner {
        Some(service) => {
            check.service_name = service.name;
            check.service_tags = service.tags;
        }
        None if spec.service_id.is_empty() => {}
        None => {
            return Err(Failure::not_found(format!("ServiceID {:?} does not exist", spec.service_id)));
        }
    }
    runnable(&spec)?;
    let new = started(context, check, &spec);
    context.store.write(|state| state.register_check(new))?;
    Ok(answer::done())
}

/// `PUT /v1/agent/check/deregister/:id`.
pub(crate) fn deregister_check(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let id = request.rest.as_str();
    if context.store.write(|state| state.remove_check(id)) {
        return Ok(answer::done());
    }
    Err(unknown_check(id))
}

/// `PUT /v1/agent/check/{pass,warn,fail}/:id?note=`.
pub(crate) fn set_check(context: &Context, request: &Request, status: Status) -> Result<Answer, Failure> {
    let note = request.query.get("note").to_owned();
    beat(context, request, status, note)
}

/// `PUT /v1/agent/check/update/:id`.
pub(crate) fn update_check(context: &Context, request: &Request) -> Result<Answer, Failure> {
    let (mut status, mut output) = (String::new(), String::new());
    for (key, value) in object(request.body()?, "agent.checkUpdate").map_err(decode_failed)? {
        match key.to_ascii_lowercase().as_str() {
            "status" => fill(&mut status, value, "checkUpdate.Status"),
            "output" => fill(&mut output, value, "checkUpdate.Output"),
            _ => Err(DecodeError::unknown_field(&key)),
        }
        .map_err(decode_failed)?;
    }
    let Some(status) = Status::from_name(&status) else {
        return Err(Failure::bad_request(format!("Invalid check status: '{status}'")));
    };
    beat(context, request, status, output)
}

fn beat(context: &Context, request: &Request, status: Status, output: String) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let id = request.rest.as_str();
    let kept = context.store.read(|state| {
        let local = state.local.checks.get(id).ok_or_else(|| unknown_check(id))?;
        let kept = local.probe.as_ref().and_then(|probe| probe.beat(output));
        kept.ok_or_else(|| Failure::internal(format!("CheckID {id:?} does not have associated TTL")))
    })?;
    checks::set_status(&context.store, id, status, kept);
    Ok(answer::done())
}

/// `PUT /v1/agent/service/maintenance/:id?enable=&reason=`.
pub(crate) fn service_maintenance(context: &Context, request: &Request) -> Result<Answer, Failure> {
    let id = request.rest.as_str();
    if id.is_empty() {
        return Err(Failure::bad_request("Missing service ID"));
    }
    let enable = enable(request)?;
    request.refuse_enterprise()?;
    let service = context.store.read(|state| state.local.services.get(id).cloned());
    let service = service.ok_or_else(|| unknown_service(id))?;
    let check = Check {
        id: format!("{SERVICE_MAINTENANCE}{id}"),
        name: "Service Maintenance Mode".into(),
        service_id: service.id,
        service_name: service.name,
        service_tags: service.tags,
        ..maintenance(request, "service")
    };
    set_maintenance(context, check, enable)?;
    Ok(answer::done())
}

/// `PUT /v1/agent/maintenance?enable=&reason=`.
pub(crate) fn node_maintenance(context: &Context, request: &Request) -> Result<Answer, Failure> {
    let enable = enable(request)?;
    let check = Check {
        id: NODE_MAINTENANCE.into(),
        name: "Node Maintenance Mode".into(),
        ..maintenance(request, "node")
    };
    set_maintenance(context, check, enable)?;
    Ok(answer::done())
}

fn enable(request: &Request) -> Result<bool, Failure> {
    if !request.query.has("enable") {
        return Err(Failure::bad_request("Missing value for enable"));
    }
    let raw = request.query.get("enable");
    parse_bool(raw).ok_or_else(|| Failure::bad_request(format!("Invalid value for enable: {raw:?}")))
}

fn maintenance(request: &Request, of: &str) -> Check {
    let notes = match request.query.get("reason") {
        "" => format!(
            "Maintenance mode is enabled for this {of}, but no reason was provided. This is a default message."
        ),
        reason => reason.to_owned(),
    };
    Check { status: Status::Critical, notes, kind: "maintenance", ..Check::default() }
}

/// Sets or lifts maintenance; setting it again changes nothing, not even the reason.
fn set_maintenance(context: &Context, check: Check, enable: bool) -> Result<(), Failure> {
    let id = check.id.clone();
    let changed = context.store.write(|state| match (enable, state.local.checks.contains_key(&id)) {
        (true, false) => {
            state.register_check(NewCheck { check, reap_after: None, probe: None }).map(|()| true)
        }
        (false, true) => Ok(state.remove_check(&id)),
        _ => Ok(false),
    })?;
    if changed {
        info!(check = %id, enable, "maintenance changed");
    }
    Ok(())
}

fn decode_failed(error: DecodeError) -> Failure {
    Failure::bad_request(format!("Request decode failed: {error}"))
}
