//! The behaviour of all endpoints.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Case, PLAIN, cases};
use crate::agents::Target;
use crate::http::Request;

pub(super) fn cases() -> Vec<Case> {
    cases![
        an_unknown_path_is_404,
        a_wrong_method_is_405_and_names_the_right_ones,
        options_names_the_methods,
        the_root_leads_to_the_user_interface,
        an_unclean_path_leads_to_the_clean_one.since((1, 22, 0), "older ones redirect with 301"),
        a_path_with_control_characters_is_rejected_without_a_body,
        a_broken_escape_in_the_query_is_500,
        a_missing_name_is_400,
        bad_query_options_are_400,
        enterprise_parameters_are_400,
        another_datacenter_is_500,
        pretty_adds_a_final_newline,
        a_chunked_body_is_read,
        head_is_405_without_a_body,
    ]
}

async fn an_unknown_path_is_404(target: Target) {
    let inside = "Invalid URL path: not a recognized HTTP API endpoint\n";
    let outside = "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n";
    for (path, text) in [("/v1/nothing", inside), ("/v1/agent/nothing", inside), ("/nothing", outside)] {
        if !target.since(1, 10) {
            target.get(path).await.is_status(404);
            continue;
        }
        target.get(path).await.is_status(404).has_text(text).has_headers(&["content-type"]);
    }
}

async fn a_wrong_method_is_405_and_names_the_right_ones(target: Target) {
    for (method, path, allow) in [
        ("GET", "/v1/agent/service/register", "OPTIONS,PUT"),
        ("POST", "/v1/agent/service/register", "OPTIONS,PUT"),
        ("POST", "/v1/agent/check/pass/x", "OPTIONS,PUT"),
        ("PUT", "/v1/agent/self", "OPTIONS,GET"),
        ("DELETE", "/v1/health/service/x", "OPTIONS,GET"),
        ("POST", "/v1/kv/x", "OPTIONS,GET,PUT,DELETE"),
    ] {
        let reply = target.client().send(Request::new(method, path)).await;
        reply.is_status(405).has_header("allow", allow).has_text(&format!("method {method} not allowed"));
    }
}

async fn options_names_the_methods(target: Target) {
    let reply = target.client().send(Request::new("OPTIONS", "/v1/kv/x")).await;
    reply.is_status(200).has_header("allow", "OPTIONS,GET,PUT,DELETE").has_text("");
}

async fn the_root_leads_to_the_user_interface(target: Target) {
    target.get("/").await.is_status(301).has_header("location", "/ui/");
    let page = target.get("/ui/").await;
    page.is_status(200);
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.header("content-type"));
}

async fn an_unclean_path_leads_to_the_clean_one(target: Target) {
    for (path, location) in [
        ("/v1//agent/self", "/v1/agent/self"),
        ("/v1/kv/a/../b", "/v1/kv/b"),
        ("/v1/kv", "/v1/kv/"),
        ("/v1/agent/service?x=1", "/v1/agent/service/?x=1"),
    ] {
        let reply = target.get(path).await;
        reply.is_status(307).has_header("location", location).has_headers(&["content-type", "location"]);
        reply.has_text(&format!("<a href=\"{location}\">Temporary Redirect</a>.\n\n"));
    }
}

async fn a_path_with_control_characters_is_rejected_without_a_body(target: Target) {
    target.get("/v1/kv/general/a%0Ab").await.is_status(400).has_text("").has_headers(&[]);
}

async fn a_broken_escape_in_the_query_is_500(target: Target) {
    target.get("/v1/health/service/general?filter=%zz").await.is_status(500).has_text("");
}

async fn a_missing_name_is_400(target: Target) {
    for (path, text) in [
        ("/v1/health/service/", "Missing service name"),
        ("/v1/health/connect/", "Missing service name"),
        ("/v1/health/checks/", "Missing service name"),
        ("/v1/health/node/", "Missing node name"),
        ("/v1/health/state/", "Missing check state"),
        ("/v1/catalog/service/", "Missing service name"),
        ("/v1/catalog/node/", "Missing node name"),
        ("/v1/kv/", "Missing key name"),
    ] {
        target.get(path).await.is_status(400).has_text(text);
    }
}

async fn bad_query_options_are_400(target: Target) {
    for (query, text) in [
        ("index=x", "Invalid index"),
        ("index=-1", "Invalid index"),
        ("wait=x", "Invalid wait time"),
        ("wait=10", "Invalid wait time"),
        ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
    ] {
        for path in ["/v1/health/service/general", "/v1/catalog/services", "/v1/kv/general"] {
            target.get(format!("{path}?{query}")).await.is_error(400, text);
        }
    }
    target.get("/v1/health/service/general?passing=maybe").await.is_error(400, "Invalid value for ?passing");
}

async fn enterprise_parameters_are_400(target: Target) {
    for path in ["/v1/health/service/general", "/v1/agent/services", "/v1/kv/general", "/v1/catalog/services"]
    {
        let ns = r#"Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature"#;
        target.get(format!("{path}?ns=default")).await.is_error(400, ns);
        if target.since(1, 11) {
            let partition =
                r#"Invalid query parameter: "partition" - Partitions are a Consul Enterprise feature"#;
            target.get(format!("{path}?partition=default")).await.is_error(400, partition);
        }
    }
}

async fn another_datacenter_is_500(target: Target) {
    for path in ["/v1/health/service/general", "/v1/health/connect/general", "/v1/kv/general"] {
        target.get(format!("{path}?dc=elsewhere")).await.is_error(500, "No path to datacenter");
    }
    // These return the error with a meaningless index.
    for path in ["/v1/catalog/services", "/v1/catalog/service/general", "/v1/health/state/any"] {
        let reply = target.get(format!("{path}?dc=elsewhere")).await;
        reply.is_status(500).has_text("No path to datacenter");
        reply.has_header("x-consul-index", "1").has_header("x-consul-knownleader", "false");
    }
}

async fn pretty_adds_a_final_newline(target: Target) {
    let plain = target.get("/v1/catalog/datacenters").await;
    plain.is_status(200).has_text("[\n    \"dc1\"\n]").has_headers(PLAIN);
    target.get("/v1/catalog/datacenters?pretty").await.has_text("[\n    \"dc1\"\n]\n");
}

async fn a_chunked_body_is_read(target: Target) {
    let mut stream = TcpStream::connect(target.client().address()).await.expect("no connection");
    let head = "PUT /v1/kv/general-chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("not sent");
    stream.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await.expect("not sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("not read");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    target.get("/v1/kv/general-chunked?raw").await.has_text("abcde");
}

async fn head_is_405_without_a_body(target: Target) {
    let reply = target.client().send(Request::new("HEAD", "/v1/agent/self")).await;
    reply.is_status(405).has_header("allow", "OPTIONS,GET").has_text("");
}
