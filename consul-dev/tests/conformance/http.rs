//! A plain HTTP client that returns complete responses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::pattern;

/// Headers that are not specific to Consul.
const TRANSPORT: [&str; 4] = ["date", "content-length", "transfer-encoding", "connection"];

/// Headers that agents before 1.22 do not send, or not all of them.
const NEWER: [&str; 3] =
    ["x-consul-default-acl-policy", "x-consul-effective-consistency", "x-consul-query-backend"];

/// A request to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        Self { method: method.to_owned(), path: path.into(), body: Vec::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn put(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("PUT", path) }
    }
}

/// A client of one agent; follows no redirection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    hyper: HyperClient<HttpConnector, Full<Bytes>>,
    old: bool,
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            hyper: HyperClient::builder(TokioExecutor::new()).build_http(),
            old: false,
        }
    }

    /// The same for an agent before 1.22: its responses lack some headers, its JSON ends with a newline, and some of
    /// its errors begin with "Bad request".
    pub(crate) fn of_an_old_agent(self) -> Self {
        Self { old: true, ..self }
    }

    /// The `host:port` of the agent.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub(crate) async fn send(&self, request: Request) -> Response {
        let shown = format!("{} {}", request.method, request.path);
        self.try_send(request).await.unwrap_or_else(|| panic!("{shown}: no answer"))
    }

    pub(crate) async fn try_send(&self, request: Request) -> Option<Response> {
        let shown = format!("{} {} {}", request.method, request.path, String::from_utf8_lossy(&request.body));
        let message = hyper::Request::builder()
            .method(request.method.as_str())
            .uri(format!("{}{}", self.base, request.path))
            .body(Full::new(Bytes::from(request.body)))
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let started = Instant::now();
        let response = self.hyper.request(message).await.ok()?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let shorter = body.strip_suffix(b"\n").filter(|_| self.old).map(Bytes::copy_from_slice);
        let text =
            |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Some(Response {
            request: shown.chars().take(300).collect(),
            status: head.status.as_u16(),
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: shorter.unwrap_or(body),
            old: self.old,
            took: started.elapsed(),
        })
    }
}

/// A response, with assertions that name the request when they fail.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    request: String,
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
    old: bool,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.request, self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The index to block on.
    pub(crate) fn index(&self) -> u64 {
        let text = self.header("x-consul-index");
        text.parse().unwrap_or_else(|_| panic!("{}: no index, but {text:?}", self.request))
    }

    pub(crate) fn backend(&self) -> &str {
        self.header("x-consul-query-backend")
    }

    #[track_caller]
    pub(crate) fn is_status(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text());
        self
    }

    /// The response to an accepted change.
    #[track_caller]
    pub(crate) fn is_done(&self) -> &Self {
        self.is_status(200).has_text("")
    }

    #[track_caller]
    pub(crate) fn has_text(&self, text: &str) -> &Self {
        let text = if self.old { text.strip_suffix('\n').unwrap_or(text) } else { text };
        assert_eq!(self.text(), text, "{}", self.request);
        self
    }

    /// Compares the body with a pattern; see [`pattern::compare`].
    #[track_caller]
    pub(crate) fn has_json(&self, expected: &Value) -> &Self {
        if let Err(difference) = pattern::compare(expected, &self.json()) {
            let shown: String =
                self.text().split_whitespace().collect::<Vec<_>>().join(" ").chars().take(600).collect();
            panic!("{}: {difference}\n    in {shown}", self.request);
        }
        self
    }

    /// An error: its status, its text, and exactly the headers of an error.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, text: &str) -> &Self {
        if self.old {
            let own = self.text();
            assert_eq!(
                own.strip_prefix("Bad request: ").unwrap_or(&own),
                text.trim_end(),
                "{}",
                self.request
            );
            return self.is_status(status);
        }
        self.is_status(status).has_text(text).has_headers(&["content-type", "x-consul-default-acl-policy"]);
        assert_eq!(self.header("content-type"), "text/plain; charset=utf-8", "{}", self.request);
        self
    }

    /// Exactly these headers, besides those of the transport and `Vary`.
    #[track_caller]
    pub(crate) fn has_headers(&self, names: &[&str]) -> &Self {
        let own: Vec<&str> = self
            .headers
            .keys()
            .map(String::as_str)
            .filter(|name| !TRANSPORT.contains(name) && *name != "vary")
            .collect();
        let known = |name: &&&str| !self.old || !NEWER.contains(*name);
        let mut expected: Vec<&str> = names.iter().filter(known).copied().collect();
        expected.sort_unstable();
        assert_eq!(own, expected, "{}", self.request);
        self
    }

    #[track_caller]
    pub(crate) fn has_header(&self, name: &str, value: &str) -> &Self {
        assert_eq!(self.header(name), value, "{}: {name}", self.request);
        self
    }
}
