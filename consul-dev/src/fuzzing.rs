//! Entry points for the crate `fuzz`: functions that parse untrusted bytes. Each panics when an invariant is broken;
//! none is for users.

use hyper::Uri;
use serde_json::json;

pub use crate::agent::fuzz_registration as registration;
use crate::filter::{Filter, INSTANCE};
use crate::request::{self, Query};
use crate::router;

/// Evaluates or rejects an expression of `?filter=`.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let item = json!({
        "Node": {"Node": "n", "Meta": {}},
        "Service": {"ID": "web-1", "Tags": ["a", "b"], "Meta": {"version": "v2", "x-y": "1"}, "Port": 80},
        "Checks": [{"Status": "passing"}, {"Status": "critical"}],
    });
    if let Ok(filter) = Filter::parse(text, INSTANCE) {
        filter.matches(&item);
    }
}

/// Parses the path and the query of a request: normalizing is idempotent, and an encoded query parses to itself.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = text.parse::<Uri>() else { return };
    let Some(path) = request::decode(uri.path(), false) else { return };
    let clean = router::normalize_path(&path);
    assert!(
        clean.starts_with('/') && !clean.contains("//") && router::normalize_path(&clean) == clean,
        "{path:?}"
    );
    if let Some(query) = uri.query().and_then(Query::parse) {
        let encoded = query.encoded();
        assert_eq!(Query::parse(&encoded).map(|again| again.encoded()), Some(encoded));
    }
}
