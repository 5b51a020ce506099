//! Lists in pages: how many, and where the next page begins.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{error::Fields, value::InvalidValue};

const DEFAULT_SIZE: i32 = 50;
const MOST: i32 = 1_000;
/// First byte of every token; another layout gets another number.
const VERSION: u8 = 1;
/// How many entries are fetched at once.
const CHUNK: usize = 20;
/// The most bytes of entries on a page; a single larger entry still fits.
pub const LARGEST: usize = 2 * 1024 * 1024;
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

    /// Fills the page; returns it with the token of the next page, empty when
    /// there is none. `fetch` gets the key after which to go on and how many
    /// entries to fetch; it is asked for a few at a time until the page holds
    /// as many as were asked for, or [`LARGEST`] bytes by `weight`, since peers
    /// refuse messages above a few MiB. `key` is what `fetch` gets back.
    ///
    /// # Errors
    /// The first of `fetch`.
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
            let fetched = fetch(after, CHUNK).await?;
            let is_last = fetched.len() < CHUNK;
            for entry in fetched {
                bytes += weight(&entry);
                let full = entries.len() == self.size || bytes > LARGEST;
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

/// What is taken for a token is one that [`write`] made.
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
        for (asked, size) in [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            assert_eq!(page("list", asked, "").unwrap().size, size);
        }
        assert_eq!(page("list", -1, ""), None);
    }

    /// A list of `a`, `b` and so on.
    async fn fill(page: &Page, entries: usize, weight: usize) -> (Vec<String>, String) {
        let all: Vec<String> = (0..entries).map(|n| format!("{n:04}")).collect();
        let fetch = |after: Option<String>, most: usize| {
            let rest = all.iter().filter(|entry| Some(*entry) > after.as_ref());
            let chunk: Vec<String> = rest.take(most).cloned().collect();
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
        let (entries, next) = fill(&first, 100, LARGEST / 10).await;
        assert_eq!(entries.len(), 10);
        assert_eq!(page("list", 1_000, &next).unwrap().after.as_deref(), Some("0009"));
        assert_eq!(fill(&first, 3, LARGEST * 2).await.0.len(), 1);
    }

    #[tokio::test]
    async fn a_token_of_one_list_is_none_of_another() {
        let (_, token) = fill(&page("list", 1, "").unwrap(), 2, 1).await;
        assert_eq!(page("list", 2, &token).unwrap().after.as_deref(), Some("0000"));
        assert_eq!(page("other", 2, &token), None);
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
