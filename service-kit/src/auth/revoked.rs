//! Revoked tokens, which are rejected before they expire.
//!
//! user-service publishes, beside its keys, the accounts that were deleted or have
//! lost a role. The list is public, so it has a digest of each subject, by
//! [`digest_of`]. An entry stays for the maximum lifetime of a token, so the
//! number of revocations in that time bounds the list, and [`MAX_REVOCATIONS`]
//! does.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use mesh_proto::shop::user::v1::Revocation;
use ring::digest::{SHA256, digest};

use super::Caller;

/// The most revocations that are published and used; of more, the latest.
pub const MAX_REVOCATIONS: usize = 10_000;

const DIGEST_LENGTH: usize = 16;

/// The digest that names a subject in a [`Revocation`]: the first 16 bytes of its
/// SHA-256.
#[must_use]
pub fn digest_of(subject: &str) -> Vec<u8> {
    short(subject).to_vec()
}

fn short(subject: &str) -> [u8; DIGEST_LENGTH] {
    let mut bytes = [0; DIGEST_LENGTH];
    bytes.copy_from_slice(&digest(&SHA256, subject.as_bytes()).as_ref()[..DIGEST_LENGTH]);
    bytes
}

/// The first second whose tokens are accepted again, by subject. Cheap to clone;
/// clones share the list.
#[derive(Clone, Debug, Default)]
pub(super) struct RevocationList {
    list: Arc<RwLock<HashMap<[u8; DIGEST_LENGTH], u64>>>,
}

impl RevocationList {
    /// Replaces the list. Malformed entries are ignored.
    pub(super) fn replace(&self, list: &[Revocation]) {
        let read = |revocation: &Revocation| {
            let subject = revocation.subject.as_slice().try_into().ok()?;
            Some((subject, u64::try_from(revocation.not_before).ok()?))
        };
        let list = list.iter().take(MAX_REVOCATIONS).filter_map(read).collect();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// True when the token of `caller` that was issued at that second, since 1970,
    /// is revoked.
    pub(super) fn contains(&self, caller: &Caller, issued: u64) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() {
            return false;
        }
        let Caller::User { id, .. } = caller else { return false };
        list.get(&short(id.as_str())).is_some_and(|not_before| issued < *not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::Role, value::CustomerId};

    fn user(id: &str) -> Caller {
        Caller::User { id: CustomerId::parse(id).unwrap(), roles: [Role::Customer].into() }
    }

    fn entry(subject: &str, not_before: i64) -> Revocation {
        Revocation { subject: digest_of(subject), not_before }
    }

    #[test]
    fn an_earlier_token_is_revoked_and_a_later_one_is_not() {
        let revoked = RevocationList::default();
        assert!(!revoked.contains(&user("ada"), 0));
        revoked.replace(&[entry("ada", 100)]);
        assert!(revoked.contains(&user("ada"), 99) && !revoked.contains(&user("ada"), 100));
        assert!(!revoked.contains(&user("bob"), 99));
        assert!(!revoked.contains(&Caller::Service("ada".parse().unwrap()), 99));
        revoked.replace(&[]);
        assert!(!revoked.contains(&user("ada"), 99));
    }

    #[test]
    fn malformed_entries_are_ignored_and_the_list_is_bounded() {
        let revoked = RevocationList::default();
        let broken =
            [Revocation { subject: vec![1; 15], not_before: 100 }, entry("bob", -1), entry("ada", 100)];
        revoked.replace(&broken);
        assert!(revoked.contains(&user("ada"), 1) && !revoked.contains(&user("bob"), 1));
        let many: Vec<_> = (0..2 * MAX_REVOCATIONS).map(|n| entry(&n.to_string(), 100)).collect();
        revoked.replace(&many);
        assert_eq!(revoked.list.read().unwrap().len(), MAX_REVOCATIONS);
    }
}
