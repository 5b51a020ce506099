//! What reads bytes that others wrote, for the crate `fuzz`. Each function
//! panics when a promise is broken; none is for users.

use crate::{auth, page};

/// A page token of a caller.
pub fn page_token(data: &[u8]) {
    page::fuzz(data);
}

/// An access token of a caller.
pub fn token(data: &[u8]) {
    auth::fuzz_token(data);
}
