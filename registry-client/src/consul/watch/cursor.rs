//! What a response to a blocking query is worth, and where to go on from it.
//! Pure: no clock, no network.

use std::time::Duration;

use http::HeaderMap;

/// From where a blocking query goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::consul) enum Cursor {
    /// Take what there is now.
    Start,
    /// What comes after this index.
    Index(u64),
    /// What differs from this content hash; agent-local endpoints.
    Hash(String),
}

/// Which of the two ways a resource is watched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::consul) enum By {
    Index,
    Hash,
}

/// What the headers of a response say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::consul) struct Meta {
    pub(in crate::consul) index: Option<u64>,
    pub(in crate::consul) hash: Option<String>,
    pub(in crate::consul) streaming: bool,
    pub(in crate::consul) known_leader: bool,
    pub(in crate::consul) last_contact: Duration,
    /// The token given could not see all of it.
    pub(in crate::consul) filtered: bool,
    /// Who has no token sees only what is granted to everybody.
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

/// What to do with a response (200, or a 404 that means "absent").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is none: ask again from the start, at once.
    AskAgain(&'static str),
    /// Read it and go on from `next`. With a `doubt` it is not believed if it
    /// takes away something that we hold. `poll`: `next` would not block.
    Read { next: Cursor, doubt: Option<Doubt>, poll: bool },
}

/// Why a response is not believed when it takes something away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    NoLeader,
    Stale(Duration),
}

/// A server that has not heard from its leader for longer has lost it; in
/// peace it is some tenths of a second.
const STALE: Duration = Duration::from_secs(5);

/// Judges the head of a response to a query that went on from `asked`.
pub(super) fn judge(by: By, asked: &Cursor, meta: &Meta) -> Verdict {
    match by {
        By::Hash => judge_hash(meta),
        By::Index => judge_index(asked, meta),
    }
}

fn judge_hash(meta: &Meta) -> Verdict {
    match &meta.hash {
        Some(hash) => Verdict::Read { next: Cursor::Hash(hash.clone()), doubt: None, poll: false },
        None => Verdict::Read { next: Cursor::Start, doubt: None, poll: true },
    }
}

fn judge_index(asked: &Cursor, meta: &Meta) -> Verdict {
    if meta.streaming && meta.index.unwrap_or(0) <= 1 {
        // An agent that could not subscribe says `200 []` when the wait ends.
        return Verdict::AskAgain("a streaming answer without an index is none");
    }
    // Leader and staleness mean something on the blocking backend only.
    let doubt = match meta {
        Meta { streaming: true, .. } => None,
        Meta { known_leader: false, .. } => Some(Doubt::NoLeader),
        Meta { last_contact, .. } if *last_contact > STALE => Some(Doubt::Stale(*last_contact)),
        Meta { .. } => None,
    };
    let Some(index) = meta.index else {
        return Verdict::Read { next: Cursor::Start, doubt, poll: true };
    };
    // Index 0 would not block.
    let index = index.max(1);
    if let Cursor::Index(before) = *asked
        && index < before
    {
        // A restored or restarted store, or a streaming response of an older
        // view. Waiting on the old index would hide the present.
        return Verdict::AskAgain("the index went backwards");
    }
    Verdict::Read { next: Cursor::Index(index), doubt, poll: false }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoLeader => f.write_str("the server that answered knows no leader"),
            Self::Stale(for_) => {
                write!(f, "the server that answered has not heard from its leader for {for_:?}")
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

    fn read(next: Cursor) -> Verdict {
        Verdict::Read { next, doubt: None, poll: false }
    }

    fn doubted(next: u64, doubt: Doubt) -> Verdict {
        Verdict::Read { next: Cursor::Index(next), doubt: Some(doubt), poll: false }
    }

    #[test]
    fn the_index_rules_hold() {
        let again = Verdict::AskAgain;
        let backwards = "the index went backwards";
        let none = "a streaming answer without an index is none";
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
            (Cursor::Start, Meta { known_leader: false, ..blocking(7) }, doubted(7, Doubt::NoLeader)),
            (Cursor::Start, Meta { last_contact: old, ..blocking(7) }, doubted(7, Doubt::Stale(old))),
            // Without an index there is nothing to block on.
            (
                Cursor::Start,
                Meta { index: None, ..blocking(7) },
                Verdict::Read { next: Cursor::Start, doubt: None, poll: true },
            ),
        ];
        for (asked, meta, verdict) in cases {
            assert_eq!(judge(By::Index, &asked, &meta), verdict, "{asked:?} {meta:?}");
        }
    }

    #[test]
    fn a_hash_is_followed_and_its_absence_polled() {
        let hash = |text: &str| Meta { hash: Some(text.to_owned()), ..Meta::default() };
        assert_eq!(judge(By::Hash, &Cursor::Start, &hash("ab")), read(Cursor::Hash("ab".to_owned())));
        assert_eq!(
            judge(By::Hash, &Cursor::Hash("ab".to_owned()), &Meta::default()),
            Verdict::Read { next: Cursor::Start, doubt: None, poll: true }
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
