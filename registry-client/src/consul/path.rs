//! Paths and queries of requests, safely encoded.

use std::fmt::Write as _;

use super::Error;

/// The path `/v1/…` of fixed words and a name from outside.
///
/// An agent redirects a path with an empty, `.` or `..` segment to the cleaned
/// path, percent-encoded or not, which would name another resource: such a name
/// is rejected here.
pub(super) fn of(fixed: &str, name: &str) -> Result<String, Error> {
    validate(name)?;
    Ok(format!("/v1/{fixed}/{}", encode(name)))
}

/// Like [`of`], for a key: slashes are kept, a final one is allowed.
pub(super) fn of_key(key: &str) -> Result<String, Error> {
    validate(key.strip_suffix('/').unwrap_or(key))?;
    let segments: Vec<String> = key.split('/').map(encode).collect();
    Ok(format!("/v1/kv/{}", segments.join("/")))
}

fn validate(name: &str) -> Result<(), Error> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::Invalid(format!(
            "`{name}` cannot be named to Consul: it is empty, or has an empty, `.` or `..` part between slashes"
        )));
    }
    Ok(())
}

/// The query `?a=b&c=d`, or an empty text.
pub(super) fn query(pairs: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (i, (name, value)) in pairs.iter().enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(&encode(value));
        }
    }
    text
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_and_what_would_be_redirected_is_refused() {
        assert_eq!(of("agent/service", "a b/ü?").unwrap(), "/v1/agent/service/a%20b%2F%C3%BC%3F");
        assert_eq!(of_key("a/b c/").unwrap(), "/v1/kv/a/b%20c/");
        for bad in ["", ".", "..", "a//b", "/a", "a/../b"] {
            assert!(of("agent/service", bad).is_err(), "{bad}");
            assert!(of_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_is_encoded() {
        let filter = r#"Service.Meta.version == "v2""#.to_owned();
        assert_eq!(
            query(&[("stale", String::new()), ("filter", filter)]),
            "?stale&filter=Service.Meta.version%20%3D%3D%20%22v2%22"
        );
        assert_eq!(query(&[]), "");
    }
}
