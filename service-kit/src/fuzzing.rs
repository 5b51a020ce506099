//! Entry points for the crate `fuzz`, for parsers of untrusted bytes. Each function
//! panics when an invariant is broken.

use crate::{auth, page};

/// A page token of a caller.
pub fn page_token(data: &[u8]) {
    page::fuzz(data);
}

/// An access token of a caller.
pub fn token(data: &[u8]) {
    auth::fuzz_token(data);
}
