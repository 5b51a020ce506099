//! The endpoint of each path, and the responses to unknown paths.

use http::{Method, StatusCode, Uri};
use hyper::body::Incoming;

use crate::context::Context;
use crate::request::{Query, Request, decode, read_body};
use crate::response::{self, ErrorResponse, HttpResponse};
use crate::{agent, catalog, health, kv, ui};

/// The endpoints.
#[derive(Debug, Clone, Copy)]
enum Endpoint {
    AgentSelf,
    AgentVersion,
    AgentServices,
    AgentService,
    AgentChecks,
    AgentMaintenance,
    AgentHealthByName,
    AgentHealthById,
    RegisterService,
    DeregisterService,
    ServiceMaintenance,
    RegisterCheck,
    DeregisterCheck,
    PassCheck,
    WarnCheck,
    FailCheck,
    UpdateCheck,
    HealthService,
    HealthConnect,
    HealthChecks,
    HealthNode,
    HealthState,
    CatalogServices,
    CatalogService,
    CatalogNodes,
    CatalogNode,
    CatalogDatacenters,
    Kv,
    StatusLeader,
    StatusPeers,
}

const GET: &[Method] = &[Method::GET];
const PUT: &[Method] = &[Method::PUT];
const KV: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];

/// Paths and their endpoints. A path that ends with `/` covers everything below it, unless a longer one
/// does.
const ROUTES: &[(&str, &[Method], Endpoint)] = &[
    ("/v1/agent/self", GET, Endpoint::AgentSelf),
    ("/v1/agent/version", GET, Endpoint::AgentVersion),
    ("/v1/agent/services", GET, Endpoint::AgentServices),
    ("/v1/agent/service/", GET, Endpoint::AgentService),
    ("/v1/agent/checks", GET, Endpoint::AgentChecks),
    ("/v1/agent/maintenance", PUT, Endpoint::AgentMaintenance),
    ("/v1/agent/health/service/name/", GET, Endpoint::AgentHealthByName),
    ("/v1/agent/health/service/id/", GET, Endpoint::AgentHealthById),
    ("/v1/agent/service/register", PUT, Endpoint::RegisterService),
    ("/v1/agent/service/deregister/", PUT, Endpoint::DeregisterService),
    ("/v1/agent/service/maintenance/", PUT, Endpoint::ServiceMaintenance),
    ("/v1/agent/check/register", PUT, Endpoint::RegisterCheck),
    ("/v1/agent/check/deregister/", PUT, Endpoint::DeregisterCheck),
    ("/v1/agent/check/pass/", PUT, Endpoint::PassCheck),
    ("/v1/agent/check/warn/", PUT, Endpoint::WarnCheck),
    ("/v1/agent/check/fail/", PUT, Endpoint::FailCheck),
    ("/v1/agent/check/update/", PUT, Endpoint::UpdateCheck),
    ("/v1/health/service/", GET, Endpoint::HealthService),
    ("/v1/health/connect/", GET, Endpoint::HealthConnect),
    ("/v1/health/checks/", GET, Endpoint::HealthChecks),
    ("/v1/health/node/", GET, Endpoint::HealthNode),
    ("/v1/health/state/", GET, Endpoint::HealthState),
    ("/v1/catalog/services", GET, Endpoint::CatalogServices),
    ("/v1/catalog/service/", GET, Endpoint::CatalogService),
    ("/v1/catalog/nodes", GET, Endpoint::CatalogNodes),
    ("/v1/catalog/node/", GET, Endpoint::CatalogNode),
    ("/v1/catalog/datacenters", GET, Endpoint::CatalogDatacenters),
    ("/v1/kv/", KV, Endpoint::Kv),
    ("/v1/status/leader", GET, Endpoint::StatusLeader),
    ("/v1/status/peers", GET, Endpoint::StatusPeers),
];

/// Serves one request.
pub(crate) async fn serve(context: &Context, request: hyper::Request<Incoming>) -> HttpResponse {
    let (head, body) = request.into_parts();
    let Some(path) = decode(head.uri.path(), false) else {
        return response::text(StatusCode::BAD_REQUEST, "400 Bad Request");
    };
    if path.chars().any(char::is_control) {
        return response::without_body(StatusCode::BAD_REQUEST);
    }
    if let Some(elsewhere) = redirect_target(&head.uri, &path, &head.method) {
        return elsewhere;
    }
    let Some(&(route, methods, endpoint)) = find_route(&path) else {
        return not_found(context, &path, &head.method);
    };
    let mut response = match Query::parse(head.uri.query().unwrap_or_default()) {
        None => response::text(StatusCode::INTERNAL_SERVER_ERROR, ""),
        Some(_) if head.method == Method::OPTIONS => allow(response::accepted(), methods),
        Some(_) if !methods.contains(&head.method) => {
            let text = format!("method {} not allowed", head.method);
            allow(response::text(StatusCode::METHOD_NOT_ALLOWED, text), methods)
        }
        Some(query) => {
            let rest = path[route.len()..].to_owned();
            let request = Request { method: head.method, rest, query, body: read_body(body).await };
            dispatch(context, endpoint, request).await.unwrap_or_else(ErrorResponse::into_response)
        }
    };
    response::set(&mut response, "vary", "Accept-Encoding");
    response::set(&mut response, "x-consul-default-acl-policy", "allow");
    response
}

async fn dispatch(
    context: &Context,
    endpoint: Endpoint,
    request: Request,
) -> Result<HttpResponse, ErrorResponse> {
    match endpoint {
        Endpoint::AgentSelf => Ok(agent::describe(context, &request)),
        Endpoint::AgentVersion => Ok(agent::version(&request)),
        Endpoint::AgentServices => agent::services(context, &request),
        Endpoint::AgentService => agent::service(context, &request).await,
        Endpoint::AgentChecks => agent::checks(context, &request),
        Endpoint::AgentMaintenance => agent::node_maintenance(context, &request),
        Endpoint::AgentHealthByName => agent::health_by_name(context, &request),
        Endpoint::AgentHealthById => agent::health_by_id(context, &request),
        Endpoint::RegisterService => agent::register_service(context, &request),
        Endpoint::DeregisterService => agent::deregister_service(context, &request),
        Endpoint::ServiceMaintenance => agent::service_maintenance(context, &request),
        Endpoint::RegisterCheck => agent::register_check(context, &request),
        Endpoint::DeregisterCheck => agent::deregister_check(context, &request),
        Endpoint::PassCheck => agent::set_check(context, &request, crate::model::CheckStatus::Passing),
        Endpoint::WarnCheck => agent::set_check(context, &request, crate::model::CheckStatus::Warning),
        Endpoint::FailCheck => agent::set_check(context, &request, crate::model::CheckStatus::Critical),
        Endpoint::UpdateCheck => agent::update_check(context, &request),
        Endpoint::HealthService => health::service(context, &request, false).await,
        Endpoint::HealthConnect => health::service(context, &request, true).await,
        Endpoint::HealthChecks => health::checks(context, &request).await,
        Endpoint::HealthNode => health::node(context, &request).await,
        Endpoint::HealthState => health::state(context, &request).await,
        Endpoint::CatalogServices => catalog::services(context, &request).await,
        Endpoint::CatalogService => catalog::service(context, &request).await,
        Endpoint::CatalogNodes => catalog::nodes(context, &request).await,
        Endpoint::CatalogNode => catalog::node(context, &request).await,
        Endpoint::CatalogDatacenters => Ok(catalog::datacenters(context, &request)),
        Endpoint::Kv => kv::serve(context, &request).await,
        Endpoint::StatusLeader => catalog::leader(context, &request),
        Endpoint::StatusPeers => catalog::peers(context, &request),
    }
}

fn find_route(path: &str) -> Option<&'static (&'static str, &'static [Method], Endpoint)> {
    let serves = |route: &str| path == route || (route.ends_with('/') && path.starts_with(route));
    ROUTES.iter().filter(|(route, ..)| serves(route)).max_by_key(|(route, ..)| route.len())
}

fn allow(mut response: HttpResponse, methods: &[Method]) -> HttpResponse {
    let names: Vec<&str> = std::iter::once("OPTIONS").chain(methods.iter().map(Method::as_str)).collect();
    response::set(&mut response, "allow", &names.join(","));
    response
}

fn not_found(context: &Context, path: &str, method: &Method) -> HttpResponse {
    let with_page = method == Method::GET;
    match path {
        "/" => response::redirect(StatusCode::MOVED_PERMANENTLY, "/ui/", with_page),
        "/ui/" => ui::page(context),
        _ if path.contains("/v1/") => {
            let text = "Invalid URL path: not a recognized HTTP API endpoint\n";
            response::text(StatusCode::NOT_FOUND, text)
        }
        _ => {
            let text =
                "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n";
            response::text(StatusCode::NOT_FOUND, text)
        }
    }
}

/// The redirection for a path that is not normalized, or that lacks the final slash of its endpoint.
fn redirect_target(uri: &Uri, path: &str, method: &Method) -> Option<HttpResponse> {
    let normalized = normalize_path(path);
    let to = if normalized != path {
        normalized
    } else if find_route(path).is_none() && (path == "/ui" || find_route(&format!("{path}/")).is_some()) {
        format!("{path}/")
    } else {
        return None;
    };
    let to = uri.query().map_or_else(|| to.clone(), |query| format!("{to}?{query}"));
    Some(response::redirect(StatusCode::TEMPORARY_REDIRECT, &to, method == Method::GET))
}

/// The path without empty, `.` and `..` segments; a final slash stays.
pub(crate) fn normalize_path(path: &str) -> String {
    let mut filtered: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                filtered.pop();
            }
            other => filtered.push(other),
        }
    }
    let slash = path.ends_with('/') && !filtered.is_empty();
    format!("/{}{}", filtered.join("/"), if slash { "/" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_and_keeps_its_final_slash() {
        for (path, cleaned) in
            [("/", "/"), ("/v1//kv/a", "/v1/kv/a"), ("/v1/kv/a/../b/", "/v1/kv/b/"), ("/../..", "/")]
        {
            assert_eq!(normalize_path(path), cleaned);
        }
    }

    #[test]
    fn the_longest_route_serves_a_path() {
        assert!(matches!(find_route("/v1/agent/service/register"), Some((.., Endpoint::RegisterService))));
        assert!(matches!(find_route("/v1/agent/service/web"), Some((.., Endpoint::AgentService))));
        assert!(find_route("/v1/agent/nothing").is_none());
    }
}
