//! `/v1/health`: instances with their checks.

use http::StatusCode;
use serde::Serialize;

use crate::blocking::{QueryView, wait_for, with_jitter};
use crate::context::Context;
use crate::filter::{self, Filter};
use crate::model::{Check, CheckStatus, Node};
use crate::request::{ReadOptions, Request, parse_bool};
use crate::response::{self, ErrorResponse, HttpResponse, QueryMeta};
use crate::store::{AgentState, Indexed};
use crate::wire::{CheckShape, HealthService, NodeShape};

/// An instance of a service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: NodeShape,
    service: HealthService,
    checks: Vec<CheckShape>,
}

/// `GET /v1/health/service/:name`, and with `connect` `GET /v1/health/connect/:name`.
pub(crate) async fn service(
    context: &Context,
    request: &Request,
    connect: bool,
) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    let name = required(request, "Missing service name")?;
    let passing_only = match request.query.get("passing") {
        "" => request.query.has("passing"),
        text => parse_bool(text).ok_or_else(|| ErrorResponse::bad_request("Invalid value for ?passing"))?,
    };
    reject_foreign_datacenter(&options)?;
    let filter = Filter::parse(&options.filter, filter::INSTANCE)?;
    let streaming = (options.index > 0 || options.cached)
        && request.query.get("near").is_empty()
        && !request.query.has("merge-central-config");
    if streaming {
        wait_streaming(context, name, &options).await;
    } else {
        let query = |state: &AgentState| QueryView::at(state.catalog.service_index(name));
        wait_for(&context.store, options.index, with_jitter(options.wait), query).await;
    }
    let (index, all) =
        context.store.read(|state| (index_of(state, name, streaming), instances(state, name, connect)));
    let matches = |instance: &Instance| {
        let passes = |check: &CheckShape| check.status == CheckStatus::Passing;
        (!passing_only || instance.checks.iter().all(passes))
            && request.query.all("tag").all(|tag| instance.service.has_tag(tag))
            && filter.matches(instance)
    };
    let filtered: Vec<Instance> = all.into_iter().filter(matches).collect();
    let meta =
        QueryMeta { index, known_leader: !streaming, consistency: Some(options.consistency), streaming };
    let mut response = json_with_meta(request, &filtered, &meta);
    if options.cached {
        response::set_cached(&mut response);
    }
    Ok(response)
}

/// Waits as the streaming backend does: for a change of this service.
async fn wait_streaming(context: &Context, name: &str, options: &ReadOptions) {
    if context.store.read(|state| index_of(state, name, true)) > options.index {
        return;
    }
    let changed = |state: &AgentState| QueryView::at(state.catalog.last_change(name));
    wait_for(&context.store, options.index, options.wait, changed).await;
}

fn index_of(state: &AgentState, name: &str, streaming: bool) -> u64 {
    let catalog = &state.catalog;
    match catalog.last_change(name) {
        // The stream of a removed service stays at the event that removed it.
        event @ 1.. if streaming => event,
        _ => catalog.service_index(name),
    }
}

fn instances(state: &AgentState, name: &str, connect: bool) -> Vec<Instance> {
    let node = NodeShape::new(&state.node, &state.catalog);
    let of_mesh = |native: bool| !connect || native;
    state
        .catalog
        .instances(name)
        .filter(|service| of_mesh(service.value.native))
        .map(|service| Instance {
            node: node.clone(),
            service: HealthService::from(service),
            checks: state
                .catalog
                .checks_of(&service.value.id)
                .map(|check| CheckShape::indexed(check, &state.node))
                .collect(),
        })
        .collect()
}

/// `GET /v1/health/checks/:service`.
pub(crate) async fn checks(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    list(context, request, "Missing service name", |_, check, name| {
        check.service_name.eq_ignore_ascii_case(name)
    })
    .await
}

/// `GET /v1/health/node/:node`.
pub(crate) async fn node(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    list(context, request, "Missing node name", |node, _, name| node.name.eq_ignore_ascii_case(name)).await
}

/// `GET /v1/health/state/:state`.
pub(crate) async fn state(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    list(context, request, "Missing check state", |_, check, state| {
        state == "any" || check.status.name() == state
    })
    .await
}

/// Lists the checks that match the last part of the path.
async fn list(
    context: &Context,
    request: &Request,
    missing: &'static str,
    matches: impl Fn(&Node, &Check, &str) -> bool,
) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    let name = required(request, missing)?;
    reject_foreign_datacenter(&options).map_err(ErrorResponse::with_placeholder_meta)?;
    let filter =
        Filter::parse(&options.filter, filter::CHECK).map_err(ErrorResponse::with_placeholder_meta)?;
    let matches = |check: &&Indexed<Check>| matches(&context.node, &check.value, name);
    let query = |state: &AgentState| {
        QueryView::of_records(state.catalog.checks_index(), state.catalog.checks().filter(matches))
    };
    wait_for(&context.store, options.index, with_jitter(options.wait), query).await;
    let (index, found) = context.store.read(|state| {
        let shape = |check| CheckShape::indexed(check, &context.node);
        let found = state.catalog.checks().filter(matches).map(shape).collect::<Vec<_>>();
        (state.catalog.checks_index(), found)
    });
    let filtered: Vec<CheckShape> = found.into_iter().filter(|check| filter.matches(check)).collect();
    Ok(json_with_meta(request, &filtered, &blocking_query_meta(index, &options)))
}

/// Returns the last part of the path, which must not be empty.
pub(crate) fn required<'a>(request: &'a Request, missing: &str) -> Result<&'a str, ErrorResponse> {
    if request.rest.is_empty() { Err(ErrorResponse::bad_request(missing)) } else { Ok(&request.rest) }
}

/// Rejects another datacenter.
pub(crate) fn reject_foreign_datacenter(options: &ReadOptions) -> Result<(), ErrorResponse> {
    if options.foreign_datacenter { Err(ErrorResponse::internal("No path to datacenter")) } else { Ok(()) }
}

/// The headers of a read by the blocking backend.
pub(crate) fn blocking_query_meta(index: u64, options: &ReadOptions) -> QueryMeta {
    QueryMeta { index, known_leader: true, consistency: Some(options.consistency), streaming: false }
}

/// A JSON response with a query's headers.
pub(crate) fn json_with_meta(request: &Request, body: &impl Serialize, meta: &QueryMeta) -> HttpResponse {
    let mut response = response::json(StatusCode::OK, body, request.pretty());
    response::set_query_meta(&mut response, meta);
    response
}
