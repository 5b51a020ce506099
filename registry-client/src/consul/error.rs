//! Errors of requests to an agent, distinguished by their fix.

use std::{fmt, sync::Arc, time::Duration};

/// An error of a request to Consul. The text has the cause and the fix; nothing
/// is hidden behind `source()`, and it never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is invalid; nothing was sent.
    #[error("{0}")]
    Config(String),

    /// The request would be invalid; nothing was sent.
    #[error("{0}")]
    Invalid(String),

    /// The connection failed or broke.
    #[error(
        "cannot reach Consul at {addr}: {cause}; start an agent there, or set CONSUL_HTTP_ADDR to a running one"
    )]
    Unreachable {
        /// The address of the agent.
        addr: Arc<str>,
        /// The error of the network.
        cause: String,
    },

    /// The agent did not respond in time.
    #[error(
        "Consul at {addr} did not respond to {path} within {after:?}; its servers may have no leader \
         (see `consul operator raft list-peers`), or the network loses packets"
    )]
    Timeout {
        /// The address of the agent.
        addr: Arc<str>,
        /// The path of the request.
        path: String,
        /// The timeout.
        after: Duration,
    },

    /// The token, or the lack of one, does not allow it (403, 401).
    #[error("Consul at {addr} refused {path} ({message}): {}", TokenFix { token, needs })]
    Denied {
        /// The address of the agent.
        addr: Arc<str>,
        /// The path of the request.
        path: String,
        /// The message of Consul.
        message: String,
        /// The permissions that the request needs, as in Consul's ACL rules.
        needs: String,
        /// The problem of the token.
        token: TokenState,
    },

    /// The resource does not exist (404).
    #[error("Consul has no {path} ({message})")]
    NotFound {
        /// The path of the request.
        path: String,
        /// The message of Consul.
        message: String,
    },

    /// The agent has too many connections or requests (429).
    #[error(
        "Consul at {addr} rejects requests because of too many ({message}); retrying later: if that lasts, raise \
         `limits.http_max_conns_per_client` or the request limits of the agent"
    )]
    TooMany {
        /// The address of the agent.
        addr: Arc<str>,
        /// The message of Consul.
        message: String,
    },

    /// The agent is unavailable, for example because its servers have no leader
    /// (500, 502, 503, 504).
    #[error(
        "Consul at {addr} is unavailable ({status}: {message}); retrying: if that lasts, look \
         at its servers with `consul members` and `consul operator raft list-peers`"
    )]
    Unavailable {
        /// The address of the agent.
        addr: Arc<str>,
        /// The HTTP status.
        status: u16,
        /// The message of Consul.
        message: String,
    },

    /// Another datacenter is unavailable (500, 502, 503, 504): its name is
    /// unknown, or its servers cannot be reached.
    #[error(
        "Consul at {addr} cannot reach datacenter `{datacenter}` ({status}: {message}); retrying: \
         compare the name with `consul catalog datacenters`, and if it is right look at the servers \
         there with `consul members -wan`"
    )]
    DatacenterUnavailable {
        /// The address of the agent.
        addr: Arc<str>,
        /// The datacenter of the request.
        datacenter: String,
        /// The HTTP status.
        status: u16,
        /// The message of Consul.
        message: String,
    },

    /// Consul rejected the request as invalid; a retry is useless.
    #[error("Consul at {addr} does not accept {path} ({status}: {message}); correct the request")]
    BadRequest {
        /// The address of the agent.
        addr: Arc<str>,
        /// The path of the request.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The message of Consul.
        message: String,
    },

    /// The response is not of a Consul agent: a redirect, a page of a proxy,
    /// truncated or unknown JSON, or too many bytes.
    #[error(
        "the response of {addr} to {path} is not Consul's: {cause}; check that CONSUL_HTTP_ADDR is the address of an agent"
    )]
    Decode {
        /// The address of the agent.
        addr: Arc<str>,
        /// The path of the request.
        path: String,
        /// The problem of the response.
        cause: String,
    },
}

/// The problem of the token of a denied request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenState {
    /// No token was sent.
    Missing,
    /// The token lacks a permission.
    Lacking,
    /// Consul does not know the token: deleted, expired, or of another cluster.
    Unknown,
}

impl Error {
    /// Returns whether the same request with the same token may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::TooMany { .. }
            | Self::Unavailable { .. }
            | Self::DatacenterUnavailable { .. }
            | Self::Decode { .. } => true,
            Self::Config(_)
            | Self::Invalid(_)
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::BadRequest { .. } => false,
        }
    }

    /// Returns whether the resource does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// The fix for a denied request, as text.
struct TokenFix<'a> {
    token: &'a TokenState,
    needs: &'a str,
}

impl fmt::Display for TokenFix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs = self.needs;
        match self.token {
            TokenState::Missing => write!(f, "set CONSUL_HTTP_TOKEN to a token with {needs}"),
            TokenState::Lacking => {
                write!(f, "give the token of CONSUL_HTTP_TOKEN a policy with {needs}, or set another")
            }
            TokenState::Unknown => write!(
                f,
                "the token is unknown to Consul (deleted, expired, or of another cluster): \
                 set CONSUL_HTTP_TOKEN to a valid one with {needs}"
            ),
        }
    }
}

/// The longest excerpt of a foreign text in an error, in characters.
const MAX_EXCERPT: usize = 300;

/// An excerpt of a foreign text for a log line: one line, no control
/// characters, bounded.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_EXCERPT)]);
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_EXCERPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "no words".to_owned(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_right_that_is_missing_and_how_to_give_it() {
        let refused = |token| Error::Denied {
            addr: "127.0.0.1:8500".into(),
            path: "/v1/agent/service/register".into(),
            message: "Permission denied".into(),
            needs: "service:write on `cart`".into(),
            token,
        };
        assert_eq!(
            refused(TokenState::Missing).to_string(),
            "Consul at 127.0.0.1:8500 refused /v1/agent/service/register (Permission denied): \
             set CONSUL_HTTP_TOKEN to a token with service:write on `cart`"
        );
        assert!(refused(TokenState::Unknown).to_string().contains("unknown to Consul"));
        assert!(!refused(TokenState::Lacking).is_retryable());
    }

    #[test]
    fn foreign_text_is_cut_to_one_bounded_line() {
        assert_eq!(excerpt(b"<html>\r\n\x1b[31m boo"), "<html> [31m boo");
        assert_eq!(excerpt(b""), "no words");
        assert!(excerpt("ä".repeat(5_000).as_bytes()).chars().count() <= MAX_EXCERPT + 1);
    }
}
