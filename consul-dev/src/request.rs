//! A request with its parsed path and query.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::duration::GoDuration;
use crate::response::ErrorResponse;

/// The limit on a request body in bytes.
const MAX_BODY: usize = 512 * 1024;
/// The limit on receiving the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The default wait of a blocking query.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
/// The limit on the wait of a blocking query.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The error of a body that was not received.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BodyError {
    /// It was longer than allowed.
    TooLarge {
        /// The Content-Length, if there was one.
        announced: Option<u64>,
    },
    /// It was cut off or took too long.
    Broken,
}

/// A request for one endpoint.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The decoded rest of the path after that of the endpoint.
    pub(crate) rest: String,
    pub(crate) query: Query,
    pub(crate) body: Result<Bytes, BodyError>,
}

impl Request {
    /// The body, or the error response for one that is too long or was cut off.
    pub(crate) fn body(&self) -> Result<&Bytes, ErrorResponse> {
        self.body.as_ref().map_err(|error| match error {
            BodyError::TooLarge { announced: Some(length) } => ErrorResponse::too_large(format!(
                "Request body({length} bytes) too large, max size: {MAX_BODY} bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size."
            )),
            BodyError::TooLarge { announced: None } => {
                ErrorResponse::too_large(format!("Request body too large. Max allowed is {MAX_BODY} bytes."))
            }
            BodyError::Broken => ErrorResponse::broken("the request's body was cut off or took too long"),
        })
    }

    /// Returns whether the response ends with a newline.
    pub(crate) fn pretty(&self) -> bool {
        self.query.has("pretty")
    }

    /// Rejects parameters of Consul Enterprise.
    pub(crate) fn reject_enterprise(&self) -> Result<(), ErrorResponse> {
        self.reject("ns", "Namespaces")?;
        self.reject_partition()
    }

    /// Rejects the Enterprise parameter for partitions.
    pub(crate) fn reject_partition(&self) -> Result<(), ErrorResponse> {
        self.reject("partition", "Partitions")
    }

    fn reject(&self, name: &str, feature: &str) -> Result<(), ErrorResponse> {
        if !self.query.has(name) {
            return Ok(());
        }
        Err(ErrorResponse::bad_request(format!(
            "Invalid query parameter: \"{name}\" - {feature} are a Consul Enterprise feature"
        )))
    }
}

/// The query parameters in their order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c`; `None` if an escape is malformed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if pair.contains(';') {
                return None;
            }
            Some((decode(name, true)?, decode(value, true)?))
        });
        pairs.collect::<Option<_>>().map(Self)
    }

    /// Returns whether the parameter is present, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The first value of a parameter; empty if it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The parameters in the order of their names, encoded again.
    pub(crate) fn encoded(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self.0.iter().collect();
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let encoded: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        encoded.join("&")
    }
}

/// The parameters of every read of the catalog or the key-value store.
#[derive(Debug)]
pub(crate) struct ReadOptions {
    /// The index to pass; 0 does not block.
    pub(crate) index: u64,
    pub(crate) wait: Duration,
    pub(crate) consistency: &'static str,
    pub(crate) filter: String,
    /// True if the agent may respond from its cache.
    pub(crate) cached: bool,
    /// True if it names another datacenter.
    pub(crate) foreign_datacenter: bool,
}

impl ReadOptions {
    /// Parses the parameters.
    pub(crate) fn read(query: &Query, datacenter: &str) -> Result<Self, ErrorResponse> {
        let consistency = match (query.has("stale"), query.has("consistent")) {
            (true, true) => {
                let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
                return Err(ErrorResponse::bad_request(text));
            }
            (true, false) => "stale",
            (false, true) => "consistent",
            (false, false) => "leader",
        };
        if query.has("cached") && consistency == "consistent" {
            let text = "Cannot specify ?cached with ?consistent, conflicting semantics.";
            return Err(ErrorResponse::bad_request(text));
        }
        let datacenter_parameter =
            [query.get("datacenter"), query.get("dc")].into_iter().find(|name| !name.is_empty());
        let index = match query.get("index") {
            "" => 0,
            text => text.parse().map_err(|_| ErrorResponse::bad_request("Invalid index"))?,
        };
        Ok(Self {
            index,
            wait: wait_time(query)?,
            consistency,
            filter: query.get("filter").to_owned(),
            cached: query.has("cached"),
            foreign_datacenter: datacenter_parameter.is_some_and(|name| name != datacenter),
        })
    }
}

/// The wait time of a query: `wait`, or 5 minutes, at most 10.
pub(crate) fn wait_time(query: &Query) -> Result<Duration, ErrorResponse> {
    let wait = match query.get("wait") {
        "" => GoDuration::default(),
        text => text.parse().map_err(|_| ErrorResponse::bad_request("Invalid wait time"))?,
    };
    Ok(if wait.is_positive() { wait.as_std().min(MAX_WAIT) } else { DEFAULT_WAIT })
}

/// Parses a boolean as Go does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Decodes percent escapes, in a query also `+`; `None` if an escape is malformed. Invalid UTF-8 is replaced.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok())?;
                if !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(hex, 16).ok()?);
                rest = &after[2..];
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// Reads a body within the limits on size and time.
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, BodyError> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(BodyError::TooLarge { announced });
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { announced: None }),
        Ok(Err(_)) | Err(_) => Err(BodyError::Broken),
    }
}
