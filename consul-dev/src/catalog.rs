//! `/v1/catalog` and `/v1/status`: services and nodes without health.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde::Serialize;

use crate::blocking::{QueryView, wait_for, with_jitter};
use crate::context::Context;
use crate::filter::{self, Filter};
use crate::health::{blocking_query_meta, json_with_meta, reject_foreign_datacenter, required};
use crate::request::{ReadOptions, Request};
use crate::response::{self, ErrorResponse, HttpResponse};
use crate::store::AgentState;
use crate::wire::{CatalogService, HealthService, NodeShape, Object};

/// Reads the options of a catalog query and waits accordingly.
async fn read(
    context: &Context,
    request: &Request,
    query: impl Fn(&AgentState) -> QueryView,
) -> Result<ReadOptions, ErrorResponse> {
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    reject_foreign_datacenter(&options).map_err(ErrorResponse::with_placeholder_meta)?;
    wait_for(&context.store, options.index, with_jitter(options.wait), query).await;
    Ok(options)
}

/// `GET /v1/catalog/services`: every name with all the tags of its instances.
pub(crate) async fn services(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let filter = checked_filter(request, filter::CATALOG_SERVICE)?;
    let options = read(context, request, |state| QueryView::at(state.catalog.services_index())).await?;
    let (index, names) = context.store.read(|state| {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let matches = |service: &&_| filter.matches(&CatalogService::new(&state.node, service));
        for service in state.catalog.services().filter(matches) {
            let tags = names.entry(service.value.name.clone()).or_default();
            tags.extend(service.value.tags.iter().flatten().cloned());
        }
        (state.catalog.services_index(), names)
    });
    Ok(json_with_meta(request, &names, &blocking_query_meta(index, &options)))
}

/// `GET /v1/catalog/service/:name`.
pub(crate) async fn service(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let name = required(request, "Missing service name")?;
    let filter = checked_filter(request, filter::CATALOG_SERVICE)?;
    let options = read(context, request, |state| {
        QueryView::of_records(state.catalog.service_index(name), state.catalog.instances(name))
    })
    .await?;
    let (index, all) = context.store.read(|state| {
        let shape = |service| CatalogService::new(&state.node, service);
        (state.catalog.service_index(name), state.catalog.instances(name).map(shape).collect::<Vec<_>>())
    });
    let matches = |service: &CatalogService| {
        request.query.all("tag").all(|tag| service.has_tag(tag)) && filter.matches(service)
    };
    let filtered: Vec<CatalogService> = all.into_iter().filter(matches).collect();
    Ok(json_with_meta(request, &filtered, &blocking_query_meta(index, &options)))
}

/// `GET /v1/catalog/nodes`: the one node.
pub(crate) async fn nodes(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_partition()?;
    let filter = checked_filter(request, filter::NODE)?;
    // The index changes with the services of the node, but only a change of the node itself would
    // wake the query.
    let query = |state: &AgentState| QueryView { version: 0, ..QueryView::at(state.catalog.nodes_index()) };
    let options = read(context, request, query).await?;
    let (index, node) = context
        .store
        .read(|state| (state.catalog.nodes_index(), NodeShape::new(&state.node, &state.catalog)));
    let filtered: Vec<NodeShape> = [node].into_iter().filter(|node| filter.matches(node)).collect();
    Ok(json_with_meta(request, &filtered, &blocking_query_meta(index, &options)))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices {
    node: NodeShape,
    services: Object<HealthService>,
}

/// `GET /v1/catalog/node/:node`; `null` for any other node.
pub(crate) async fn node(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    request.reject_enterprise()?;
    let name = required(request, "Missing node name")?;
    let is_own = context.node.name.eq_ignore_ascii_case(name);
    let node_view = move |state: &AgentState| {
        let last_index = state.catalog.services_index().max(state.catalog.nodes_index());
        QueryView::at(if is_own { last_index } else { 0 })
    };
    let options = read(context, request, node_view).await?;
    let (index, found) = context.store.read(|state| {
        let services = state.catalog.services();
        let shapes = services.map(|service| (service.value.id.clone(), HealthService::from(service)));
        let found = NodeServices {
            node: NodeShape::new(&state.node, &state.catalog),
            services: Object(shapes.collect()),
        };
        (node_view(state).index, is_own.then_some(found))
    });
    Ok(json_with_meta(request, &found, &blocking_query_meta(index, &options)))
}

/// `GET /v1/catalog/datacenters`: the one datacenter.
pub(crate) fn datacenters(context: &Context, request: &Request) -> HttpResponse {
    response::json(StatusCode::OK, &[&context.node.datacenter], request.pretty())
}

/// `GET /v1/status/leader`. The agent is its own leader and has no other port than that of its API.
pub(crate) fn leader(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    reject_foreign_datacenter(&ReadOptions::read(&request.query, &context.node.datacenter)?)?;
    Ok(response::json(StatusCode::OK, &own_address(context), request.pretty()))
}

/// `GET /v1/status/peers`.
pub(crate) fn peers(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    reject_foreign_datacenter(&ReadOptions::read(&request.query, &context.node.datacenter)?)?;
    Ok(response::json(StatusCode::OK, &[own_address(context)], request.pretty()))
}

fn own_address(context: &Context) -> String {
    let node = &context.node;
    if node.address.contains(':') {
        format!("[{}]:{}", node.address, node.port)
    } else {
        format!("{}:{}", node.address, node.port)
    }
}

fn checked_filter(request: &Request, schema: filter::Schema) -> Result<Filter, ErrorResponse> {
    Filter::parse(request.query.get("filter"), schema).map_err(ErrorResponse::with_placeholder_meta)
}
