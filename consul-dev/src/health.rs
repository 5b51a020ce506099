//! `/v1/health`: instances with their checks.

use http::StatusCode;
use serde::Serialize;

use crate::Context;
use crate::answer::{self, Answer, Failure, Meta};
use crate::blocking::{Seen, jittered, wait_for};
use crate::filter::{self, Filter};
use crate::model::{Check, Node, Status};
use crate::request::{ReadOptions, Request, parse_bool};
use crate::store::{Indexed, State};
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
pub(crate) async fn service(context: &Context, request: &Request, connect: bool) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    let name = required(request, "Missing service name")?;
    let passing_only = match request.query.get("passing") {
        "" => request.query.has("passing"),
        text => parse_bool(text).ok_or_else(|| Failure::bad_request("Invalid value for ?passing"))?,
    };
    refuse_foreign(&options)?;
    let filter = Filter::parse(&options.filter, filter::INSTANCE)?;
    let streaming = (options.index > 0 || options.cached)
        && request.query.get("near").is_empty()
        && !request.query.has("merge-central-config");
    if streaming {
        wait_streaming(context, name, &options).await;
    } else {
        let look = |state: &State| Seen::at(state.catalog.service_index(name));
        wait_for(&context.store, options.index, jittered(options.wait), look).await;
    }
    let (index, all) =
        context.store.read(|state| (index_of(state, name, streaming), instances(state, name, connect)));
    let wanted = |instance: &Instance| {
        let passes = |check: &CheckShape| check.status == Status::Passing;
        (!passing_only || instance.checks.iter().all(passes))
            && request.query.all("tag").all(|tag| instance.service.has_tag(tag))
            && filter.keeps(instance)
    };
    let kept: Vec<Instance> = all.into_iter().filter(wanted).collect();
    let meta = Meta { index, known_leader: !streaming, consistency: Some(options.consistency), streaming };
    let mut answer = with_meta(request, &kept, &meta);
    if options.cached {
        answer::set_cached(&mut answer);
    }
    Ok(answer)
}

/// Waits as the streaming backend does: for something to happen to this very service.
async fn wait_streaming(context: &Context, name: &str, options: &ReadOptions) {
    if context.store.read(|state| index_of(state, name, true)) > options.index {
        return;
    }
    let happened = |state: &State| Seen::at(state.catalog.last_event(name));
    wait_for(&context.store, options.index, options.wait, happened).await;
}

fn index_of(state: &State, name: &str, streaming: bool) -> u64 {
    let catalog = &state.catalog;
    match catalog.last_event(name) {
        // A stream of a service that is gone stays at the event that ended it.
        event @ 1.. if streaming => event,
        _ => catalog.service_index(name),
    }
}

fn instances(state: &State, name: &str, connect: bool) -> Vec<Instance> {
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
pub(crate) async fn checks(context: &Context, request: &Request) -> Result<Answer, Failure> {
    list(context, request, "Missing service name", |_, check, name| {
        check.service_name.eq_ignore_ascii_case(name)
    })
    .await
}

/// `GET /v1/health/node/:node`.
pub(crate) async fn node(context: &Context, request: &Request) -> Result<Answer, Failure> {
    list(context, request, "Missing node name", |node, _, name| node.name.eq_ignore_ascii_case(name)).await
}

/// `GET /v1/health/state/:state`.
pub(crate) async fn state(context: &Context, request: &Request) -> Result<Answer, Failure> {
    list(context, request, "Missing check state", |_, check, state| {
        state == "any" || check.status.name() == state
    })
    .await
}

/// Every check that is `wanted` for the last part of the path.
async fn list(
    context: &Context,
    request: &Request,
    missing: &'static str,
    wanted: impl Fn(&Node, &Check, &str) -> bool,
) -> Result<Answer, Failure> {
    request.refuse_enterprise()?;
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    let name = required(request, missing)?;
    refuse_foreign(&options).map_err(Failure::with_meaningless_meta)?;
    let filter = Filter::parse(&options.filter, filter::CHECK).map_err(Failure::with_meaningless_meta)?;
    let wanted = |check: &&Indexed<Check>| wanted(&context.node, &check.value, name);
    let look = |state: &State| Seen::of(state.catalog.checks_index(), state.catalog.checks().filter(wanted));
    wait_for(&context.store, options.index, jittered(options.wait), look).await;
    let (index, found) = context.store.read(|state| {
        let shape = |check| CheckShape::indexed(check, &context.node);
        let found = state.catalog.checks().filter(wanted).map(shape).collect::<Vec<_>>();
        (state.catalog.checks_index(), found)
    });
    let kept: Vec<CheckShape> = found.into_iter().filter(|check| filter.keeps(check)).collect();
    Ok(with_meta(request, &kept, &blocking_meta(index, &options)))
}

/// The last part of the path, which must not be empty.
pub(crate) fn required<'a>(request: &'a Request, missing: &str) -> Result<&'a str, Failure> {
    if request.rest.is_empty() { Err(Failure::bad_request(missing)) } else { Ok(&request.rest) }
}

/// There is only one datacenter.
pub(crate) fn refuse_foreign(options: &ReadOptions) -> Result<(), Failure> {
    if options.foreign_datacenter { Err(Failure::internal("No path to datacenter")) } else { Ok(()) }
}

/// The headers of a read by the blocking backend.
pub(crate) fn blocking_meta(index: u64, options: &ReadOptions) -> Meta {
    Meta { index, known_leader: true, consistency: Some(options.consistency), streaming: false }
}

/// A JSON answer with a query's headers.
pub(crate) fn with_meta(request: &Request, body: &impl Serialize, meta: &Meta) -> Answer {
    let mut answer = answer::json(StatusCode::OK, body, request.pretty());
    answer::set_meta(&mut answer, meta);
    answer
}
