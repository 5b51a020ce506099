//! Lists in pages: how many, and where the next page begins.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{error::Fields, value::InvalidValue};

const DEFAULT_SIZE: i32 = 50;
const MOST: i32 = 1_000;
/// First byte of every token; another layout gets another number.
const VERSION: u8 = 1;
/// Bounds what a peer can make us decode; our own tokens are shorter.
const LONGEST_TOKEN: usize = 512;

/// Which page of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The most entries to return, 1 to 1,000.
    pub size: usize,
    /// The key of the last entry of the page before; `None` for the first.
    pub after: Option<String>,
    scope: u32,
}

impl Page {
    /// Reads `page_size` and `page_token` of a request. `scope` is all that
    /// the list depends on besides, such as `orders of ada`: a token of one
    /// list is not one of another. `None` after telling `fields` what is bad.
    pub fn take(fields: &mut Fields, scope: &str, page_size: i32, page_token: &str) -> Option<Self> {
        let scope = fingerprint(scope.as_bytes());
        let size = fields.take("page_size", size(page_size));
        let after = fields.take("page_token", read(scope, page_token));
        Some(Self { size: size?, after: after?, scope })
    }

    /// How many entries to fetch: one more than the page holds, which tells
    /// whether there is another page.
    #[must_use]
    pub fn fetch(&self) -> i64 {
        // At most 1,001.
        i64::try_from(self.size).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// Cuts what was fetched to the page, and gives the token of the next:
    /// empty when there is none. `key` is what [`after`](Self::after) will be.
    pub fn cut<T>(&self, fetched: &mut Vec<T>, key: impl Fn(&T) -> &str) -> String {
        if fetched.len() <= self.size {
            return String::new();
        }
        fetched.truncate(self.size);
        fetched.last().map(|last| write(self.scope, key(last))).unwrap_or_default()
    }
}

fn size(asked: i32) -> Result<usize, InvalidValue> {
    let size = if asked == 0 { DEFAULT_SIZE } else { asked.min(MOST) };
    usize::try_from(size).map_err(|_| InvalidValue("must not be negative".into()))
}

/// A token is the version, the fingerprint of the list, and the key. It is no
/// secret and grants nothing; the fingerprint finds tokens of another list.
fn write(scope: u32, key: &str) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(scope.to_be_bytes());
    bytes.extend(key.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read(scope: u32, token: &str) -> Result<Option<String>, InvalidValue> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = || {
        let bytes = (token.len() <= LONGEST_TOKEN).then(|| URL_SAFE_NO_PAD.decode(token).ok())??;
        let rest = bytes.strip_prefix(&[VERSION])?.strip_prefix(&scope.to_be_bytes())?;
        let key = std::str::from_utf8(rest).ok()?;
        (!key.is_empty() && !key.chars().any(char::is_control)).then(|| key.to_owned())
    };
    key().map(Some).ok_or_else(|| {
        InvalidValue("must be the next_page_token of an earlier page of the same list, or empty".into())
    })
}

/// FNV-1a of 32 bits: the same in every process and version.
fn fingerprint(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(scope: &str, size: i32, token: &str) -> Option<Page> {
        Page::take(&mut Fields::default(), scope, size, token)
    }

    #[test]
    fn a_page_size_is_clamped_and_never_negative() {
        for (asked, size) in [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            assert_eq!(page("list", asked, "").unwrap().size, size);
        }
        assert_eq!(page("list", -1, ""), None);
    }

    #[test]
    fn a_token_leads_to_the_next_page_of_its_own_list() {
        let first = page("list", 2, "").unwrap();
        let mut fetched = vec!["a", "b", "c"];
        let token = first.cut(&mut fetched, |key| key);
        assert_eq!(fetched, ["a", "b"]);
        assert_eq!(page("list", 2, &token).unwrap().after.as_deref(), Some("b"));
        assert_eq!(page("other", 2, &token), None);
        assert_eq!(first.cut(&mut vec!["c"], |key| key), "");
        assert_eq!(first.cut(&mut vec!["c", "d"], |key| key), "");
    }

    #[test]
    fn a_token_not_of_ours_is_refused() {
        let scope = fingerprint(b"list");
        let newer = URL_SAFE_NO_PAD.encode([[2].as_slice(), &scope.to_be_bytes(), b"key"].concat());
        let bare = write(scope, "");
        for token in ["x", "!!!", "AAAA", &newer, &bare, &write(scope, "a\0"), &"A".repeat(10_000)] {
            assert_eq!(page("list", 2, token), None, "{token}");
        }
    }
}
