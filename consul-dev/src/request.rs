//! A request after its path and query have been read.

use bytes::Bytes;
use http::Method;

use crate::answer::Failure;
use crate::duration::GoDuration;
use crate::server::MAX_BODY;

/// How long a blocking query waits where it does not say.
const DEFAULT_WAIT: std::time::Duration = std::time::Duration::from_secs(300);
/// The longest a blocking query can wait.
const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(600);

/// Why a request has no body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BodyError {
    /// It was longer than allowed.
    TooLarge {
        /// The length that the request announced, if it did.
        announced: Option<u64>,
    },
    /// It broke off or took too long.
    Broken,
}

/// A request for one endpoint.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// What follows the endpoint's own path, decoded.
    pub(crate) rest: String,
    pub(crate) query: Query,
    pub(crate) body: Result<Bytes, BodyError>,
}

impl Request {
    /// The body, or the refusal of one that is too long or broke off.
    pub(crate) fn body(&self) -> Result<&Bytes, Failure> {
        self.body.as_ref().map_err(|error| match error {
            BodyError::TooLarge { announced: Some(length) } => Failure::too_large(format!(
                "Request body({length} bytes) too large, max size: {MAX_BODY} bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size."
            )),
            BodyError::TooLarge { announced: None } => {
                Failure::too_large(format!("Request body too large. Max allowed is {MAX_BODY} bytes."))
            }
            BodyError::Broken => Failure::broken("the request's body broke off or took too long"),
        })
    }

    /// Whether the answer is to end with a newline.
    pub(crate) fn pretty(&self) -> bool {
        self.query.has("pretty")
    }

    /// Refuses parameters that only Consul Enterprise knows.
    pub(crate) fn refuse_enterprise(&self) -> Result<(), Failure> {
        self.refuse("ns", "Namespaces")?;
        self.refuse_partition()
    }

    /// The same where namespaces do not matter.
    pub(crate) fn refuse_partition(&self) -> Result<(), Failure> {
        self.refuse("partition", "Partitions")
    }

    fn refuse(&self, name: &str, feature: &str) -> Result<(), Failure> {
        if !self.query.has(name) {
            return Ok(());
        }
        Err(Failure::bad_request(format!(
            "Invalid query parameter: \"{name}\" - {feature} are a Consul Enterprise feature"
        )))
    }
}

/// The parameters after the `?`, in their order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c`; `None` if an escape in it is broken.
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

    /// Whether the parameter is there, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The first value of a parameter; empty if it is not there.
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

/// The parameters that every read of the catalog or the key-value store takes.
#[derive(Debug)]
pub(crate) struct ReadOptions {
    /// The index to pass; 0 does not block.
    pub(crate) index: u64,
    pub(crate) wait: std::time::Duration,
    pub(crate) consistency: &'static str,
    pub(crate) filter: String,
    /// The agent may answer from its cache.
    pub(crate) cached: bool,
    /// Of another datacenter than ours, of which there is none.
    pub(crate) foreign_datacenter: bool,
}

impl ReadOptions {
    /// Reads them, or says which is wrong.
    pub(crate) fn read(query: &Query, datacenter: &str) -> Result<Self, Failure> {
        let consistency = match (query.has("stale"), query.has("consistent")) {
            (true, true) => {
                let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
                return Err(Failure::bad_request(text));
            }
            (true, false) => "stale",
            (false, true) => "consistent",
            (false, false) => "leader",
        };
        if query.has("cached") && consistency == "consistent" {
            let text = "Cannot specify ?cached with ?consistent, conflicting semantics.";
            return Err(Failure::bad_request(text));
        }
        let asked = [query.get("datacenter"), query.get("dc")].into_iter().find(|name| !name.is_empty());
        let index = match query.get("index") {
            "" => 0,
            text => text.parse().map_err(|_| Failure::bad_request("Invalid index"))?,
        };
        Ok(Self {
            index,
            wait: wait_of(query)?,
            consistency,
            filter: query.get("filter").to_owned(),
            cached: query.has("cached"),
            foreign_datacenter: asked.is_some_and(|asked| asked != datacenter),
        })
    }
}

/// How long a query may wait: `wait`, or 5 minutes, at most 10.
pub(crate) fn wait_of(query: &Query) -> Result<std::time::Duration, Failure> {
    let wait = match query.get("wait") {
        "" => GoDuration::default(),
        text => text.parse().map_err(|_| Failure::bad_request("Invalid wait time"))?,
    };
    Ok(if wait.is_positive() { wait.as_std().min(MAX_WAIT) } else { DEFAULT_WAIT })
}

/// A truth value as Go reads it.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Decodes percent escapes, in a query also `+`; `None` if an escape is broken. Bytes that are no UTF-8 are replaced.
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
