//! Paginated lists.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{error::Fields, value::InvalidValue};

const DEFAULT_PAGE_SIZE: i32 = 50;
const MAX_PAGE_SIZE: i32 = 1_000;
/// The first byte of every token, for its format.
const TOKEN_VERSION: u8 = 1;
/// The number of entries per fetch.
const FETCH_SIZE: usize = 20;
/// The maximum size of the entries on a page in bytes; a single larger entry is
/// allowed.
pub const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// The maximum length of a token that is decoded.
const MAX_TOKEN_LENGTH: usize = 512;

/// The requested page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The maximum number of entries, 1 to 1,000.
    pub size: usize,
    /// The key of the last entry of the previous page; `None` for the first.
    pub after: Option<String>,
    scope: u32,
}

impl Page {
    /// Reads `page_size` and `page_token` of a request. `scope` identifies the list,
    /// such as `orders of ada`: a token is valid for its own list only. Returns
    /// `None` after recording the errors in `fields`.
    pub fn take(fields: &mut Fields, scope: &str, page_size: i32, page_token: &str) -> Option<Self> {
        let scope = fingerprint(scope.as_bytes());
        let size = fields.take("page_size", size(page_size));
        let after = fields.take("page_token", read(scope, page_token));
        Some(Self { size: size?, after: after?, scope })
    }

    /// Fills the page; returns it with the token of the next page, empty when there
    /// is none. `fetch` gets the key after which to continue and the number of
    /// entries; it is called repeatedly until the page is full, by number of entries
    /// or by [`MAX_PAGE_BYTES`] of `weight`, since peers reject messages above a few
    /// MiB. `key` returns the key of an entry.
    ///
    /// # Errors
    /// The first error of `fetch`.
    ///
    /// # Cancel safety
    /// Cancel safe if `fetch` is.
    pub async fn fill<T, E, F>(
        &self,
        mut fetch: impl FnMut(Option<String>, usize) -> F,
        key: impl Fn(&T) -> &str,
        weight: impl Fn(&T) -> usize,
    ) -> Result<(Vec<T>, String), E>
    where
        F: Future<Output = Result<Vec<T>, E>>,
    {
        let (mut entries, mut bytes, mut after) = (Vec::new(), 0, self.after.clone());
        loop {
            let fetched = fetch(after, FETCH_SIZE).await?;
            let is_last = fetched.len() < FETCH_SIZE;
            for entry in fetched {
                bytes += weight(&entry);
                let full = entries.len() == self.size || bytes > MAX_PAGE_BYTES;
                if let Some(last) = entries.last().filter(|_| full) {
                    let token = write(self.scope, key(last));
                    return Ok((entries, token));
                }
                entries.push(entry);
            }
            if is_last {
                return Ok((entries, String::new()));
            }
            after = entries.last().map(|last| key(last).to_owned());
        }
    }
}

fn size(requested: i32) -> Result<usize, InvalidValue> {
    let size = if requested == 0 { DEFAULT_PAGE_SIZE } else { requested.min(MAX_PAGE_SIZE) };
    usize::try_from(size).map_err(|_| InvalidValue("must not be negative".into()))
}

/// Writes a token: the version, the fingerprint of the list, and the key. It is no
/// secret and grants no access; the fingerprint detects tokens of another list.
fn write(scope: u32, key: &str) -> String {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend(scope.to_be_bytes());
    bytes.extend(key.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read(scope: u32, token: &str) -> Result<Option<String>, InvalidValue> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = || {
        let bytes = (token.len() <= MAX_TOKEN_LENGTH).then(|| URL_SAFE_NO_PAD.decode(token).ok())??;
        let rest = bytes.strip_prefix(&[TOKEN_VERSION])?.strip_prefix(&scope.to_be_bytes())?;
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

/// Checks that every accepted token is one that [`write`] made.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let scope = fingerprint(b"orders of ada");
    let Ok(token) = std::str::from_utf8(data) else { return };
    if let Ok(Some(key)) = read(scope, token) {
        assert_eq!(write(scope, &key), token);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn page(scope: &str, size: i32, token: &str) -> Option<Page> {
        Page::take(&mut Fields::default(), scope, size, token)
    }

    #[test]
    fn a_page_size_is_clamped_and_never_negative() {
        for (requested, size) in [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            assert_eq!(page("list", requested, "").unwrap().size, size);
        }
        assert_eq!(page("list", -1, ""), None);
    }

    /// A list of `a`, `b` and so on.
    async fn fill(page: &Page, entries: usize, weight: usize) -> (Vec<String>, String) {
        let all: Vec<String> = (0..entries).map(|n| format!("{n:04}")).collect();
        let fetch = |after: Option<String>, limit: usize| {
            let rest = all.iter().filter(|entry| Some(*entry) > after.as_ref());
            let chunk: Vec<String> = rest.take(limit).cloned().collect();
            async move { Ok::<_, Infallible>(chunk) }
        };
        page.fill(fetch, |entry| entry, |_| weight).await.unwrap()
    }

    #[tokio::test]
    async fn pages_follow_one_another_and_leave_nothing_out() {
        for entries in [0, 1, 6, 7, 8, 19, 20, 21, 60] {
            let (mut all, mut token) = (Vec::new(), String::new());
            loop {
                let (page, next) = fill(&page("list", 7, &token).unwrap(), entries, 1).await;
                assert!(page.len() == 7 || next.is_empty());
                all.extend(page);
                token = next;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(all.len(), entries);
            assert!(all.is_sorted());
        }
    }

    #[tokio::test]
    async fn a_page_is_cut_before_it_gets_too_large_to_send() {
        let first = page("list", 1_000, "").unwrap();
        let (entries, next) = fill(&first, 100, MAX_PAGE_BYTES / 10).await;
        assert_eq!(entries.len(), 10);
        assert_eq!(page("list", 1_000, &next).unwrap().after.as_deref(), Some("0009"));
        assert_eq!(fill(&first, 3, MAX_PAGE_BYTES * 2).await.0.len(), 1);
    }

    #[tokio::test]
    async fn a_token_of_one_list_is_none_of_another() {
        let (_, token) = fill(&page("list", 1, "").unwrap(), 2, 1).await;
        assert_eq!(page("list", 2, &token).unwrap().after.as_deref(), Some("0000"));
        assert_eq!(page("other", 2, &token), None);
    }

    #[test]
    fn an_invalid_token_is_rejected() {
        let scope = fingerprint(b"list");
        let newer = URL_SAFE_NO_PAD.encode([[2].as_slice(), &scope.to_be_bytes(), b"key"].concat());
        let bare = write(scope, "");
        for token in ["x", "!!!", "AAAA", &newer, &bare, &write(scope, "a\0"), &"A".repeat(10_000)] {
            assert_eq!(page("list", 2, token), None, "{token}");
        }
    }
}
