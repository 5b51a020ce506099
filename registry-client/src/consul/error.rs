//! What can go wrong between us and an agent, told apart by what helps.

use std::{fmt, sync::Arc, time::Duration};

/// Why Consul did not do what was asked. Its text names the cause and the
/// mend; nothing is hidden behind `source()`, and no secret is ever in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot mean anything; nothing was sent.
    #[error("{0}")]
    Config(String),

    /// What was to be sent would be wrong; nothing was sent.
    #[error("{0}")]
    Invalid(String),

    /// No connection could be made, or it broke.
    #[error(
        "cannot reach Consul at {addr}: {cause}; start an agent there, or set CONSUL_HTTP_ADDR to one that runs"
    )]
    Unreachable {
        /// Whom we called.
        addr: Arc<str>,
        /// What the network said.
        cause: String,
    },

    /// The agent did not answer in time.
    #[error(
        "Consul at {addr} did not answer {path} within {after:?}; its servers may have no leader \
         (`consul operator raft list-peers` tells), or the network loses packets"
    )]
    Timeout {
        /// Whom we called.
        addr: Arc<str>,
        /// What we asked.
        path: String,
        /// How long we waited.
        after: Duration,
    },

    /// The token, or the lack of one, does not allow it (403, 401).
    #[error("Consul at {addr} refused {path} ({said}): {}", Mend { token, needs })]
    Denied {
        /// Whom we called.
        addr: Arc<str>,
        /// What we asked.
        path: String,
        /// Consul's own words.
        said: String,
        /// The rights that the request needs, in Consul's words.
        needs: String,
        /// What was wrong with the token.
        token: TokenState,
    },

    /// There is no such thing (404).
    #[error("Consul has no {path} ({said})")]
    NotFound {
        /// What we asked.
        path: String,
        /// Consul's own words.
        said: String,
    },

    /// The agent has too many connections or requests (429).
    #[error(
        "Consul at {addr} is asked too much ({said}); it is asked again later: if that lasts, raise \
         `limits.http_max_conns_per_client` or the request limits of the agent"
    )]
    TooMany {
        /// Whom we called.
        addr: Arc<str>,
        /// Consul's own words.
        said: String,
    },

    /// The agent cannot answer now, for example because its servers have no
    /// leader (500, 502, 503, 504).
    #[error(
        "Consul at {addr} cannot answer now ({status}: {said}); it is asked again: if that lasts, look \
         at its servers with `consul members` and `consul operator raft list-peers`"
    )]
    Unavailable {
        /// Whom we called.
        addr: Arc<str>,
        /// The HTTP status.
        status: u16,
        /// Consul's own words.
        said: String,
    },

    /// The agent has no response for another datacenter now (500, 502, 503,
    /// 504): there is none of that name, or its servers cannot be reached.
    #[error(
        "Consul at {addr} cannot answer for datacenter `{datacenter}` now ({status}: {said}); it is asked \
         again: compare the name with `consul catalog datacenters`, and if it is right look at the servers \
         there with `consul members -wan`"
    )]
    DatacenterUnavailable {
        /// Whom we called.
        addr: Arc<str>,
        /// The datacenter that was asked for.
        datacenter: String,
        /// The HTTP status.
        status: u16,
        /// Consul's own words.
        said: String,
    },

    /// Consul read the request and found it wrong; sending it again is in vain.
    #[error("Consul at {addr} does not accept {path} ({status}: {said}); correct what is asked")]
    BadRequest {
        /// Whom we called.
        addr: Arc<str>,
        /// What we asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// Consul's own words.
        said: String,
    },

    /// The response is none that a Consul agent gives: a redirect, a page of a
    /// proxy, cut or foreign JSON, or more bytes than are accepted.
    #[error(
        "what {addr} answered to {path} is not Consul's: {cause}; check that CONSUL_HTTP_ADDR names an agent"
    )]
    Decode {
        /// Whom we called.
        addr: Arc<str>,
        /// What we asked.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// What was wrong with the token of a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenState {
    /// None was sent.
    Missing,
    /// It exists and lacks a right.
    Lacking,
    /// Consul does not know it: deleted, expired, or of another cluster.
    Unknown,
}

impl Error {
    /// Returns whether the same request may succeed later without anybody
    /// changing it or the token.
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

    /// Returns whether Consul said that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// The words that say how to mend a refusal.
struct Mend<'a> {
    token: &'a TokenState,
    needs: &'a str,
}

impl fmt::Display for Mend<'_> {
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

/// At most this much of somebody else's text is repeated in ours.
const MOST_SAID: usize = 300;

/// Somebody else's text, fit to stand in a log line: one line, no control
/// characters, bounded.
pub(super) fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MOST_SAID)]);
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MOST_SAID) {
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
            said: "Permission denied".into(),
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
        assert_eq!(said(b"<html>\r\n\x1b[31m boo"), "<html> [31m boo");
        assert_eq!(said(b""), "no words");
        assert!(said("ä".repeat(5_000).as_bytes()).chars().count() <= MOST_SAID + 1);
    }
}
