//! `/ui/`: a page that lists the services and their health, and reloads every few seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::StatusCode;

use crate::context::Context;
use crate::model::{CheckStatus, Service};
use crate::response::{self, HttpResponse};
use crate::store::AgentState;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"3\">\
<title>Services</title><style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}\
.passing{color:#0a7d33}.warning{color:#9a6700}.critical{color:#c62828}small{color:#666}</style>";

/// Renders the page.
pub(crate) fn page(context: &Context) -> HttpResponse {
    let body = context.store.read(render);
    response::with_type(StatusCode::OK, "text/html; charset=utf-8", body.into())
}

fn render(state: &AgentState) -> String {
    let mut services: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
    for service in state.local.services.values() {
        services.entry(&service.name).or_default().push(service);
    }
    let mut page = String::from(HEAD);
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<h1>Services</h1><p><small>Development agent <b>{}</b>, datacenter {}. Not for production: it keeps its state in memory only.</small></p>",
        escape(&state.node.name),
        escape(&state.node.datacenter)
    );
    if services.is_empty() {
        page.push_str("<p>No service is registered yet.</p>");
        return page;
    }
    page.push_str("<table><tr><th>Service</th><th>Instance</th><th>Address</th><th>Health</th></tr>");
    for (name, instances) in services {
        for (row, service) in instances.iter().enumerate() {
            let shown = if row == 0 { escape(name) } else { String::new() };
            let _ = write!(
                page,
                "<tr><td>{shown}</td><td>{}</td><td>{}:{}</td><td>{}</td></tr>",
                escape(&service.id),
                escape(&service.address),
                service.default_port(),
                health(state, service)
            );
        }
    }
    page.push_str("</table>");
    page
}

fn health(state: &AgentState, service: &Service) -> String {
    let mut worst = CheckStatus::Passing;
    let mut details = String::new();
    for check in state.local.checks_of(&service.id) {
        worst = worst.max(check.status);
        let text = if check.output.is_empty() { &check.notes } else { &check.output };
        let _ = write!(details, "<br><small>{}: {}</small>", escape(&check.name), escape(text));
    }
    format!("<span class=\"{worst}\">{worst}</span>{details}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
