//! The registration of checks, TTL heartbeats, and maintenance.

use tracing::info;

use super::register::{check_from_spec, ensure_supported, start_check};
use super::{unknown_check, unknown_service};
use crate::checks::{self, CheckContext, CheckSpec};
use crate::context::Context;
use crate::decode::{DecodeError, object, read_into};
use crate::model::{Check, CheckStatus, NODE_MAINTENANCE, SERVICE_MAINTENANCE};
use crate::request::{Request, parse_bool};
use crate::response::{self, ErrorResponse, HttpResponse};
use crate::store::NewCheck;

/// `PUT /v1/agent/check/register`.
pub(crate) fn register_check(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let spec = object(request.body()?, "structs.CheckDefinition")
        .and_then(|members| CheckSpec::read(members, "", CheckContext::CheckRegister))
        .map_err(decode_failed)?;
    if spec.name.is_empty() {
        return Err(ErrorResponse::bad_request("Missing check name"));
    }
    if !spec.status.is_empty() && CheckStatus::from_name(&spec.status).is_none() {
        return Err(ErrorResponse::bad_request("Bad check status"));
    }
    spec.validate().map_err(|why| ErrorResponse::bad_request(format!("Invalid check: {why}")))?;
    let id = if spec.id.is_empty() { spec.name.clone() } else { spec.id.clone() };
    let mut check = check_from_spec(id, &spec);
    check.service_id.clone_from(&spec.service_id);
    let owner = context.store.read(|state| state.local.services.get(&spec.service_id).cloned());
    match owner {
        Some(service) => {
            check.service_name = service.name;
            check.service_tags = service.tags;
        }
        None if spec.service_id.is_empty() => {}
        None => {
            return Err(ErrorResponse::not_found(format!("ServiceID {:?} does not exist", spec.service_id)));
        }
    }
    ensure_supported(&spec)?;
    let new = start_check(context, check, &spec);
    context.store.write(|state| state.register_check(new))?;
    Ok(response::accepted())
}

/// `PUT /v1/agent/check/deregister/:id`.
pub(crate) fn deregister_check(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let id = request.rest.as_str();
    if context.store.write(|state| state.remove_check(id)) {
        return Ok(response::accepted());
    }
    Err(unknown_check(id))
}

/// `PUT /v1/agent/check/{pass,warn,fail}/:id?note=`.
pub(crate) fn set_check(
    context: &Context,
    request: &Request,
    status: CheckStatus,
) -> Result<HttpResponse, ErrorResponse> {
    let note = request.query.get("note").to_owned();
    heartbeat(context, request, status, note)
}

/// `PUT /v1/agent/check/update/:id`.
pub(crate) fn update_check(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    let (mut status, mut output) = (String::new(), String::new());
    for (key, value) in object(request.body()?, "agent.checkUpdate").map_err(decode_failed)? {
        match key.to_ascii_lowercase().as_str() {
            "status" => read_into(&mut status, value, "checkUpdate.Status"),
            "output" => read_into(&mut output, value, "checkUpdate.Output"),
            _ => Err(DecodeError::unknown_field(&key)),
        }
        .map_err(decode_failed)?;
    }
    let Some(status) = CheckStatus::from_name(&status) else {
        return Err(ErrorResponse::bad_request(format!("Invalid check status: '{status}'")));
    };
    heartbeat(context, request, status, output)
}

fn heartbeat(
    context: &Context,
    request: &Request,
    status: CheckStatus,
    output: String,
) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let id = request.rest.as_str();
    let truncated_output = context.store.read(|state| {
        let local = state.local.checks.get(id).ok_or_else(|| unknown_check(id))?;
        let truncated_output = local.probe.as_ref().and_then(|probe| probe.heartbeat(output));
        truncated_output
            .ok_or_else(|| ErrorResponse::internal(format!("CheckID {id:?} does not have associated TTL")))
    })?;
    checks::set_status(&context.store, id, status, truncated_output);
    Ok(response::accepted())
}

/// `PUT /v1/agent/service/maintenance/:id?enable=&reason=`.
pub(crate) fn service_maintenance(
    context: &Context,
    request: &Request,
) -> Result<HttpResponse, ErrorResponse> {
    let id = request.rest.as_str();
    if id.is_empty() {
        return Err(ErrorResponse::bad_request("Missing service ID"));
    }
    let is_enabled = read_enable(request)?;
    request.reject_enterprise()?;
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
    set_maintenance(context, check, is_enabled)?;
    Ok(response::accepted())
}

/// `PUT /v1/agent/maintenance?enable=&reason=`.
pub(crate) fn node_maintenance(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    let is_enabled = read_enable(request)?;
    let check = Check {
        id: NODE_MAINTENANCE.into(),
        name: "Node Maintenance Mode".into(),
        ..maintenance(request, "node")
    };
    set_maintenance(context, check, is_enabled)?;
    Ok(response::accepted())
}

fn read_enable(request: &Request) -> Result<bool, ErrorResponse> {
    if !request.query.has("enable") {
        return Err(ErrorResponse::bad_request("Missing value for enable"));
    }
    let raw = request.query.get("enable");
    parse_bool(raw).ok_or_else(|| ErrorResponse::bad_request(format!("Invalid value for enable: {raw:?}")))
}

fn maintenance(request: &Request, of: &str) -> Check {
    let notes = match request.query.get("reason") {
        "" => format!(
            "Maintenance mode is enabled for this {of}, but no reason was provided. This is a default message."
        ),
        reason => reason.to_owned(),
    };
    Check { status: CheckStatus::Critical, notes, kind: "maintenance", ..Check::default() }
}

/// Starts or ends maintenance; starting it again changes nothing, not even the
/// reason.
fn set_maintenance(context: &Context, check: Check, is_enabled: bool) -> Result<(), ErrorResponse> {
    let id = check.id.clone();
    let changed = context.store.write(|state| match (is_enabled, state.local.checks.contains_key(&id)) {
        (true, false) => {
            state.register_check(NewCheck { check, reap_after: None, probe: None }).map(|()| true)
        }
        (false, true) => Ok(state.remove_check(&id)),
        _ => Ok(false),
    })?;
    if changed {
        info!(check = %id, is_enabled, "maintenance changed");
    }
    Ok(())
}

fn decode_failed(error: DecodeError) -> ErrorResponse {
    ErrorResponse::bad_request(format!("Request decode failed: {error}"))
}
