//! The position of a blocking query, and the decision about a response. Plain
//! values without I/O.

use std::time::Duration;

use http::HeaderMap;

/// The position from which a blocking query continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::consul) enum Cursor {
    /// The current content, without blocking.
    Start,
    /// The content after this index.
    Index(u64),
    /// The content that differs from this hash; for agent-local endpoints.
    Hash(String),
}

/// The way a resource is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::consul) enum BlockingBy {
    Index,
    Hash,
}

/// The metadata in the headers of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::consul) struct Meta {
    pub(in crate::consul) index: Option<u64>,
    pub(in crate::consul) hash: Option<String>,
    pub(in crate::consul) streaming: bool,
    pub(in crate::consul) known_leader: bool,
    pub(in crate::consul) last_contact: Duration,
    /// Results were filtered by the ACLs of the token.
    pub(in crate::consul) filtered: bool,
    /// The default ACL policy is `deny`: requests without a token see only what
    /// the anonymous token may read.
    pub(in crate::consul) denies: bool,
}

impl Meta {
    pub(in crate::consul) fn read(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name| text(name).and_then(|value: &str| value.trim().parse::<u64>().ok());
        Self {
            index: number("x-consul-index"),
            hash: text("x-consul-contenthash").map(str::to_owned),
            streaming: text("x-consul-query-backend") == Some("streaming"),
            known_leader: text("x-consul-knownleader") == Some("true"),
            last_contact: Duration::from_millis(number("x-consul-lastcontact").unwrap_or(0)),
            filtered: text("x-consul-results-filtered-by-acls") == Some("true"),
            denies: text("x-consul-default-acl-policy") == Some("deny"),
        }
    }
}

/// The decision about a response (200, or a 404 that means "absent").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadDecision {
    /// Ignore it and query again from the start, at once.
    Restart(&'static str),
    /// Read it and continue from `next`. With a `doubt` it is not accepted if
    /// it removes something. `poll`: a query from `next` would not block.
    Read { next: Cursor, doubt: Option<Doubt>, poll: bool },
}

/// The reason for which a response that removes something is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    NoLeader,
    Stale(Duration),
}

/// The longest contact time to the leader of a server that still has one;
/// normal are some tenths of a second.
const MAX_LAST_CONTACT: Duration = Duration::from_secs(5);

/// Decides about a response to a query from `queried`, by its headers.
pub(super) fn decide(by: BlockingBy, queried: &Cursor, meta: &Meta) -> ReadDecision {
    match by {
        BlockingBy::Hash => decide_by_hash(meta),
        BlockingBy::Index => decide_by_index(queried, meta),
    }
}

fn decide_by_hash(meta: &Meta) -> ReadDecision {
    match &meta.hash {
        Some(hash) => ReadDecision::Read { next: Cursor::Hash(hash.clone()), doubt: None, poll: false },
        None => ReadDecision::Read { next: Cursor::Start, doubt: None, poll: true },
    }
}

fn decide_by_index(queried: &Cursor, meta: &Meta) -> ReadDecision {
    if meta.streaming && meta.index.unwrap_or(0) <= 1 {
        // An agent that could not subscribe responds with `200 []` when the
        // wait ends.
        return ReadDecision::Restart("a streaming response without an index is ignored");
    }
    // Leader and staleness apply to the blocking backend only.
    let doubt = match meta {
        Meta { streaming: true, .. } => None,
        Meta { known_leader: false, .. } => Some(Doubt::NoLeader),
        Meta { last_contact, .. } if *last_contact > MAX_LAST_CONTACT => Some(Doubt::Stale(*last_contact)),
        Meta { .. } => None,
    };
    let Some(index) = meta.index else {
        return ReadDecision::Read { next: Cursor::Start, doubt, poll: true };
    };
    // Index 0 would not block.
    let index = index.max(1);
    if let Cursor::Index(before) = *queried
        && index < before
    {
        // The store was restored or restarted, or a streaming response has an
        // older view. Waiting on the old index would hide the current content.
        return ReadDecision::Restart("the index went backwards");
    }
    ReadDecision::Read { next: Cursor::Index(index), doubt, poll: false }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoLeader => f.write_str("the responding server knows no leader"),
            Self::Stale(for_) => {
                write!(f, "the responding server has had no contact to its leader for {for_:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocking(index: u64) -> Meta {
        Meta { index: Some(index), known_leader: true, ..Meta::default() }
    }

    fn streaming(index: u64) -> Meta {
        Meta { index: Some(index), streaming: true, ..Meta::default() }
    }

    fn read(next: Cursor) -> ReadDecision {
        ReadDecision::Read { next, doubt: None, poll: false }
    }

    fn doubtful(next: u64, doubt: Doubt) -> ReadDecision {
        ReadDecision::Read { next: Cursor::Index(next), doubt: Some(doubt), poll: false }
    }

    #[test]
    fn the_index_rules_hold() {
        let again = ReadDecision::Restart;
        let backwards = "the index went backwards";
        let none = "a streaming response without an index is ignored";
        let old = Duration::from_secs(10);
        let cases = [
            (Cursor::Start, blocking(7), read(Cursor::Index(7))),
            (Cursor::Index(7), blocking(9), read(Cursor::Index(9))),
            (Cursor::Index(7), blocking(7), read(Cursor::Index(7))),
            (Cursor::Index(7), blocking(u64::MAX), read(Cursor::Index(u64::MAX))),
            // Clamped to 1.
            (Cursor::Start, blocking(0), read(Cursor::Index(1))),
            (Cursor::Index(1), blocking(0), read(Cursor::Index(1))),
            // Backwards starts again.
            (Cursor::Index(7), blocking(6), again(backwards)),
            (Cursor::Index(7), streaming(6), again(backwards)),
            // Streaming: 1 or less is no response, and no leader means nothing.
            (Cursor::Index(7), streaming(0), again(none)),
            (Cursor::Index(1), streaming(1), again(none)),
            (Cursor::Index(7), streaming(8), read(Cursor::Index(8))),
            (Cursor::Index(7), Meta { last_contact: old, ..streaming(8) }, read(Cursor::Index(8))),
            // Blocking: leader and staleness are judged.
            (Cursor::Start, Meta { known_leader: false, ..blocking(7) }, doubtful(7, Doubt::NoLeader)),
            (Cursor::Start, Meta { last_contact: old, ..blocking(7) }, doubtful(7, Doubt::Stale(old))),
            // Without an index there is nothing to block on.
            (
                Cursor::Start,
                Meta { index: None, ..blocking(7) },
                ReadDecision::Read { next: Cursor::Start, doubt: None, poll: true },
            ),
        ];
        for (queried, meta, verdict) in cases {
            assert_eq!(decide(BlockingBy::Index, &queried, &meta), verdict, "{queried:?} {meta:?}");
        }
    }

    #[test]
    fn a_hash_is_followed_and_its_absence_polled() {
        let hash = |text: &str| Meta { hash: Some(text.to_owned()), ..Meta::default() };
        assert_eq!(
            decide(BlockingBy::Hash, &Cursor::Start, &hash("ab")),
            read(Cursor::Hash("ab".to_owned()))
        );
        assert_eq!(
            decide(BlockingBy::Hash, &Cursor::Hash("ab".to_owned()), &Meta::default()),
            ReadDecision::Read { next: Cursor::Start, doubt: None, poll: true }
        );
    }

    #[test]
    fn headers_are_read_whatever_their_case() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("X-Consul-Index", "18446744073709551615"),
            ("X-Consul-Knownleader", "true"),
            ("X-Consul-Lastcontact", "12"),
            ("X-Consul-Query-Backend", "blocking-query"),
            ("X-Consul-Contenthash", "119c6a8e021c9f59"),
        ] {
            headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let meta = Meta::read(&headers);
        assert_eq!(meta.index, Some(u64::MAX));
        assert_eq!(meta.last_contact, Duration::from_millis(12));
        assert_eq!(meta.hash.as_deref(), Some("119c6a8e021c9f59"));
        assert!(meta.known_leader && !meta.streaming);
    }
}
