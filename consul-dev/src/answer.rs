//! Answers: their headers and bodies, to the letter of the real agent's.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::store::AgentFull;

/// What goes back to the client.
pub(crate) type Answer = Response<Full<Bytes>>;

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

/// A request that is refused, with the text that says why.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    text: String,
    meaningless_meta: bool,
    closes: bool,
}

impl Failure {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), meaningless_meta: false, closes: false }
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

    /// A body that is too long; it was not read to its end, so the connection cannot be used again.
    pub(crate) fn too_large(text: impl Into<String>) -> Self {
        Self { closes: true, ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, text) }
    }

    /// A body that never came to its end; the connection cannot be used again.
    pub(crate) fn broken(text: impl Into<String>) -> Self {
        Self { closes: true, ..Self::bad_request(text) }
    }

    /// Adds the headers of a query that never ran. Some of the real agent's endpoints send them with an error, and a
    /// client that believes their index watches the wrong one.
    pub(crate) fn with_meaningless_meta(self) -> Self {
        Self { meaningless_meta: true, ..self }
    }

    pub(crate) fn into_answer(self) -> Answer {
        let mut answer = text(self.status, self.text);
        if self.meaningless_meta {
            set_meta(
                &mut answer,
                &Meta { index: 1, known_leader: false, consistency: None, streaming: false },
            );
        }
        if self.closes {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl From<AgentFull> for Failure {
    fn from(full: AgentFull) -> Self {
        Self::internal(full.to_string())
    }
}

/// What a query says of itself in headers.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) index: u64,
    pub(crate) known_leader: bool,
    pub(crate) consistency: Option<&'static str>,
    pub(crate) streaming: bool,
}

/// Adds a query's headers.
pub(crate) fn set_meta(answer: &mut Answer, meta: &Meta) {
    let backend = if meta.streaming { "streaming" } else { "blocking-query" };
    // An index of 0 would make clients spin.
    set(answer, "x-consul-index", &meta.index.max(1).to_string());
    set(answer, "x-consul-knownleader", if meta.known_leader { "true" } else { "false" });
    set(answer, "x-consul-lastcontact", "0");
    set(answer, "x-consul-query-backend", backend);
    if let Some(consistency) = meta.consistency {
        set(answer, "x-consul-effective-consistency", consistency);
    }
}

/// Adds what an answer from the agent's cache says. What is held here is never old.
pub(crate) fn set_cached(answer: &mut Answer) {
    set(answer, "x-cache", "HIT");
    set(answer, "age", "0");
}

/// Sets a header; a value that no header can hold is left out.
pub(crate) fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// A plain text with a status.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    with_type(status, PLAIN, text.into().into())
}

/// The 200 without a body of an accepted change.
pub(crate) fn done() -> Answer {
    with_type(StatusCode::OK, "application/json; charset=utf-8", Bytes::new())
}

/// A body of the given type.
pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Answer::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A status and nothing else.
pub(crate) fn bare(status: StatusCode) -> Answer {
    let mut answer = Answer::new(Full::new(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// A redirection with the small page that Go's server sends along for a GET.
pub(crate) fn redirect(status: StatusCode, to: &str, with_page: bool) -> Answer {
    let escaped = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let reason = status.canonical_reason().unwrap_or_default();
    let page = if with_page { format!("<a href=\"{escaped}\">{reason}</a>.\n\n") } else { String::new() };
    let mut answer = with_type(status, "text/html; charset=utf-8", page.into());
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

/// A value as indented JSON, as an agent under `-dev` writes it; `pretty` adds a final newline.
pub(crate) fn json(status: StatusCode, value: &impl Serialize, pretty: bool) -> Answer {
    let mut body = Vec::new();
    let mut writer = Serializer::with_formatter(&mut body, PrettyFormatter::with_indent(b"    "));
    if let Err(error) = value.serialize(&mut writer) {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("could not write the answer as JSON: {error}"),
        );
    }
    let mut body = escape_html(body);
    if pretty {
        body.push(b'\n');
    }
    with_type(status, JSON, body.into())
}

/// Go's encoder escapes what would be markup in HTML. Such characters stand only inside strings.
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
