//! `/v1/catalog` and `/v1/status`: what is known of services and nodes, without health.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde::Serialize;

use crate::Context;
use crate::answer::{self, Answer, Failure};
use crate::blocking::{Seen, jittered, wait_for};
use crate::filter::{self, Filter};
use crate::health::{blocking_meta, refuse_foreign, required, with_meta};
use crate::request::{ReadOptions, Request};
use crate::store::State;
use crate::wire::{CatalogService, HealthService, NodeShape, Object};

/// Reads the options of a catalog query and waits as they ask.
async fn read(
    context: &Context,
    request: &Request,
    look: impl Fn(&State) -> Seen,
) -> Result<ReadOptions, Failure> {
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    refuse_foreign(&options).map_err(Failure::with_meaningless_meta)?;
    wait_for(&context.store, options.index, jittered(options.wait), look).await;
    Ok(options)
}

/// `GET /v1/catalog/services`: every name with all the tags of its instances.
pub(crate) async fn services(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let filter = checked_filter(request, filter::CATALOG_SERVICE)?;
    let options = read(context, request, |state| Seen::at(state.catalog.services_index())).await?;
    let (index, names) = context.store.read(|state| {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let wanted = |service: &&_| filter.keeps(&CatalogService::new(&state.node, service));
        for service in state.catalog.services().filter(wanted) {
            let tags = names.entry(service.value.name.clone()).or_default();
            tags.extend(service.value.tags.iter().flatten().cloned());
        }
        (state.catalog.services_index(), names)
    });
    Ok(with_meta(request, &names, &blocking_meta(index, &options)))
}

/// `GET /v1/catalog/service/:name`.
pub(crate) async fn service(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let name = required(request, "Missing service name")?;
    let filter = checked_filter(request, filter::CATALOG_SERVICE)?;
    let options = read(context, request, |state| {
        Seen::of(state.catalog.service_index(name), state.catalog.instances(name))
    })
    .await?;
    let (index, all) = context.store.read(|state| {
        let shape = |service| CatalogService::new(&state.node, service);
        (state.catalog.service_index(name), state.catalog.instances(name).map(shape).collect::<Vec<_>>())
    });
    let wanted = |service: &CatalogService| {
        request.query.all("tag").all(|tag| service.has_tag(tag)) && filter.keeps(service)
    };
    let kept: Vec<CatalogService> = all.into_iter().filter(wanted).collect();
    Ok(with_meta(request, &kept, &blocking_meta(index, &options)))
}

/// `GET /v1/catalog/nodes`: the one node.
pub(crate) async fn nodes(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_partition()?;
    let filter = checked_filter(request, filter::NODE)?;
    // The index moves with the services of the node, but only a change of the node itself would wake.
    let look = |state: &State| Seen { version: 0, ..Seen::at(state.catalog.nodes_index()) };
    let options = read(context, request, look).await?;
    let (index, node) = context
        .store
        .read(|state| (state.catalog.nodes_index(), NodeShape::new(&state.node, &state.catalog)));
    let kept: Vec<NodeShape> = [node].into_iter().filter(|node| filter.keeps(node)).collect();
    Ok(with_meta(request, &kept, &blocking_meta(index, &options)))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices {
    node: NodeShape,
    services: Object<HealthService>,
}

/// `GET /v1/catalog/node/:node`; `null` for another node than ours.
pub(crate) async fn node(context: &Context, request: &Request) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let name = required(request, "Missing node name")?;
    let ours = context.node.name.eq_ignore_ascii_case(name);
    let of_node = move |state: &State| {
        let known = state.catalog.services_index().max(state.catalog.nodes_index());
        Seen::at(if ours { known } else { 0 })
    };
    let options = read(context, request, of_node).await?;
    let (index, found) = context.store.read(|state| {
        let services = state.catalog.services();
        let shapes = services.map(|service| (service.value.id.clone(), HealthService::from(service)));
        let found = NodeServices {
            node: NodeShape::new(&state.node, &state.catalog),
            services: Object(shapes.collect()),
        };
        (of_node(state).index, ours.then_some(found))
    });
    Ok(with_meta(request, &found, &blocking_meta(index, &options)))
}

/// `GET /v1/catalog/datacenters`: the one datacenter.
pub(crate) fn datacenters(context: &Context, request: &Request) -> Answer {
    answer::json(StatusCode::OK, &[&context.node.datacenter], request.pretty())
}

/// `GET /v1/status/leader`. The agent leads itself; having no other port, it names that of its API.
pub(crate) fn leader(context: &Context, request: &Request) -> Result<Answer, Failure> {
    refuse_foreign(&ReadOptions::read(&request.query, &context.node.datacenter)?)?;
    Ok(answer::json(StatusCode::OK, &own_address(context), request.pretty()))
}

/// `GET /v1/status/peers`.
pub(crate) fn peers(context: &Context, request: &Request) -> Result<Answer, Failure> {
    refuse_foreign(&ReadOptions::read(&request.query, &context.node.datacenter)?)?;
    Ok(answer::json(StatusCode::OK, &[own_address(context)], request.pretty()))
}

fn own_address(context: &Context) -> String {
    let node = &context.node;
    if node.address.contains(':') {
        format!("[{}]:{}", node.address, node.port)
    } else {
        format!("{}:{}", node.address, node.port)
    }
}

fn checked_filter(request: &Request, schema: filter::Schema) -> Result<Filter, Failure> {
    Filter::parse(request.query.get("filter"), schema).map_err(Failure::with_meaningless_meta)
}
