//! Responses with the exact headers and bodies of a real agent.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::store::CapacityExceeded;

/// A response to the client.
pub(crate) type HttpResponse = Response<Full<Bytes>>;

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

/// An error response with its text.
#[derive(Debug)]
pub(crate) struct ErrorResponse {
    status: StatusCode,
    text: String,
    has_placeholder_meta: bool,
    closes_connection: bool,
}

impl ErrorResponse {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), has_placeholder_meta: false, closes_connection: false }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// The error for a body that is too long. It was not read to its end, so the connection is
    /// closed.
    pub(crate) fn too_large(text: impl Into<String>) -> Self {
        Self { closes_connection: true, ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, text) }
    }

    /// The error for a body that was not received completely; the connection is
    /// closed.
    pub(crate) fn broken(text: impl Into<String>) -> Self {
        Self { closes_connection: true, ..Self::bad_request(text) }
    }

    /// Adds the headers of a query that did not run. Some endpoints of a real agent send them with an error; their
    /// index is meaningless.
    pub(crate) fn with_placeholder_meta(self) -> Self {
        Self { has_placeholder_meta: true, ..self }
    }

    pub(crate) fn into_response(self) -> HttpResponse {
        let mut response = text(self.status, self.text);
        if self.has_placeholder_meta {
            set_query_meta(
                &mut response,
                &QueryMeta { index: 1, known_leader: false, consistency: None, streaming: false },
            );
        }
        if self.closes_connection {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<CapacityExceeded> for ErrorResponse {
    fn from(full: CapacityExceeded) -> Self {
        Self::internal(full.to_string())
    }
}

/// The metadata of a query in the response's headers.
#[derive(Debug)]
pub(crate) struct QueryMeta {
    pub(crate) index: u64,
    pub(crate) known_leader: bool,
    pub(crate) consistency: Option<&'static str>,
    pub(crate) streaming: bool,
}

/// Adds a query's headers.
pub(crate) fn set_query_meta(response: &mut HttpResponse, meta: &QueryMeta) {
    let backend = if meta.streaming { "streaming" } else { "blocking-query" };
    // An index of 0 would make clients spin.
    set(response, "x-consul-index", &meta.index.max(1).to_string());
    set(response, "x-consul-knownleader", if meta.known_leader { "true" } else { "false" });
    set(response, "x-consul-lastcontact", "0");
    set(response, "x-consul-query-backend", backend);
    if let Some(consistency) = meta.consistency {
        set(response, "x-consul-effective-consistency", consistency);
    }
}

/// Adds the headers of a cached response, which is never stale here.
pub(crate) fn set_cached(response: &mut HttpResponse) {
    set(response, "x-cache", "HIT");
    set(response, "age", "0");
}

/// Sets a header; a value that no header can hold is left out.
pub(crate) fn set(response: &mut HttpResponse, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// A plain text with a status.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> HttpResponse {
    with_type(status, PLAIN, text.into().into())
}

/// The 200 without a body for an accepted change.
pub(crate) fn accepted() -> HttpResponse {
    with_type(StatusCode::OK, "application/json; charset=utf-8", Bytes::new())
}

/// A body of the given type.
pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> HttpResponse {
    let mut response = HttpResponse::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A response with only a status.
pub(crate) fn without_body(status: StatusCode) -> HttpResponse {
    let mut response = HttpResponse::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A redirection with the small page that Go's server sends for a GET.
pub(crate) fn redirect(status: StatusCode, to: &str, with_page: bool) -> HttpResponse {
    let escaped = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let reason = status.canonical_reason().unwrap_or_default();
    let page = if with_page { format!("<a href=\"{escaped}\">{reason}</a>.\n\n") } else { String::new() };
    let mut response = with_type(status, "text/html; charset=utf-8", page.into());
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// A value as indented JSON in the format of an agent under `-dev`; `pretty` adds a final
/// newline.
pub(crate) fn json(status: StatusCode, value: &impl Serialize, pretty: bool) -> HttpResponse {
    let mut body = Vec::new();
    let mut writer = Serializer::with_formatter(&mut body, PrettyFormatter::with_indent(b"    "));
    if let Err(error) = value.serialize(&mut writer) {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("could not write the response as JSON: {error}"),
        );
    }
    let mut body = escape_html(body);
    if pretty {
        body.push(b'\n');
    }
    with_type(status, JSON, body.into())
}

/// Go's encoder escapes HTML markup. Such characters stand only inside strings.
fn escape_html(body: Vec<u8>) -> Vec<u8> {
    if !body.iter().any(|byte| matches!(byte, b'<' | b'>' | b'&')) {
        return body;
    }
    let mut escaped = Vec::with_capacity(body.len() + 64);
    for byte in body {
        match byte {
            b'<' => escaped.extend_from_slice(b"\\u003c"),
            b'>' => escaped.extend_from_slice(b"\\u003e"),
            b'&' => escaped.extend_from_slice(b"\\u0026"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_json_is_escaped() {
        assert_eq!(escape_html(br#"{"a":"<b>&"}"#.to_vec()), br#"{"a":"\u003cb\u003e\u0026"}"#);
    }
}
