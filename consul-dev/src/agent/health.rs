//! `/v1/agent/health`: the aggregated health of a service, for load balancers that query the agent
//! itself.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::model::{Check, CheckStatus, NODE_MAINTENANCE, Node, SERVICE_MAINTENANCE, Service};
use crate::request::Request;
use crate::response::{self, ErrorResponse, HttpResponse};
use crate::store::AgentState;
use crate::wire::AgentService;

/// The worst status of a service's checks; maintenance is worse than critical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AggregatedHealth {
    Checks(CheckStatus),
    Maintenance,
}

impl AggregatedHealth {
    fn of(check: &Check) -> Self {
        if check.id == NODE_MAINTENANCE || check.id.starts_with(SERVICE_MAINTENANCE) {
            return Self::Maintenance;
        }
        Self::Checks(check.status)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Checks(status) => status.name(),
            Self::Maintenance => "maintenance",
        }
    }

    fn code(self) -> StatusCode {
        match self {
            Self::Checks(CheckStatus::Passing) => StatusCode::OK,
            Self::Checks(CheckStatus::Warning) => StatusCode::TOO_MANY_REQUESTS,
            Self::Checks(CheckStatus::Critical) | Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    aggregated_status: &'static str,
    service: Option<AgentService>,
    checks: Option<Vec<AgentCheck>>,
}

/// A check in these endpoints: without its type, with an empty definition.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct AgentCheck {
    node: String,
    #[serde(rename = "CheckID")]
    check_id: String,
    name: String,
    status: CheckStatus,
    notes: String,
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
    service_tags: Option<Vec<String>>,
    r#type: &'static str,
    exposed_port: u16,
    definition: Value,
    create_index: u64,
    modify_index: u64,
}

impl AgentCheck {
    fn new(check: &Check, node: &Node) -> Self {
        let check = check.clone();
        Self {
            node: node.name.clone(),
            check_id: check.id,
            name: check.name,
            status: check.status,
            notes: check.notes,
            output: check.output,
            service_id: check.service_id,
            service_name: check.service_name,
            service_tags: check.service_tags,
            r#type: "",
            exposed_port: 0,
            definition: empty_definition(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

fn empty_definition() -> Value {
    json!({
        "Interval": "0s", "Timeout": "0s", "DeregisterCriticalServiceAfter": "0s",
        "HTTP": "", "Header": null, "Method": "", "Body": "", "TLSServerName": "", "TLSSkipVerify": false,
        "TCP": "", "TCPUseTLS": false, "UDP": "", "GRPC": "", "OSService": "", "GRPCUseTLS": false,
    })
}

/// `GET /v1/agent/health/service/name/:name`: all instances on this agent, and their worst health.
pub(crate) fn by_name(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    let name = request.rest.as_str();
    if name.is_empty() {
        return Err(ErrorResponse::bad_request("Missing service Name"));
    }
    request.reject_enterprise()?;
    let found: Vec<(AggregatedHealth, Info)> = context.store.read(|state| {
        let named = |service: &&Service| service.name == name;
        state.local.services.values().filter(named).map(|service| aggregate(state, service)).collect()
    });
    let (code, reason) = match found.iter().map(|(health, _)| *health).max() {
        Some(worst) => (worst.code(), worst.name().to_owned()),
        None => (StatusCode::NOT_FOUND, format!("ServiceName {name} Not Found")),
    };
    let infos: Vec<Info> = found.into_iter().map(|(_, info)| info).collect();
    Ok(response_for(request, code, &reason, &infos))
}

/// `GET /v1/agent/health/service/id/:id`: one instance.
pub(crate) fn by_id(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    let id = request.rest.as_str();
    if id.is_empty() {
        return Err(ErrorResponse::bad_request("Missing serviceID"));
    }
    request.reject_enterprise()?;
    let found =
        context.store.read(|state| state.local.services.get(id).map(|service| aggregate(state, service)));
    let Some((health, info)) = found else {
        let not_found = Info { aggregated_status: CheckStatus::Critical.name(), service: None, checks: None };
        return Ok(response_for(
            request,
            StatusCode::NOT_FOUND,
            &format!("ServiceId {id} not found"),
            &not_found,
        ));
    };
    Ok(response_for(request, health.code(), health.name(), &info))
}

fn aggregate(state: &AgentState, service: &Service) -> (AggregatedHealth, Info) {
    let checks: Vec<&Check> = state.local.checks_of(&service.id).collect();
    let worst = checks
        .iter()
        .map(|check| AggregatedHealth::of(check))
        .max()
        .unwrap_or(AggregatedHealth::Checks(CheckStatus::Passing));
    let info = Info {
        aggregated_status: worst.name(),
        service: Some(AgentService::new(service, &state.node)),
        checks: Some(checks.into_iter().map(|check| AgentCheck::new(check, &state.node)).collect()),
    };
    (worst, info)
}

fn response_for(request: &Request, code: StatusCode, reason: &str, body: &impl Serialize) -> HttpResponse {
    let mut answer = if request.query.get("format") == "text" {
        response::with_type(code, "text/plain", reason.to_owned().into())
    } else {
        response::json(code, body, request.pretty())
    };
    response::set(&mut answer, "x-consul-reason", reason);
    answer
}
