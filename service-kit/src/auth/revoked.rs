//! Tokens that are believed no longer, though they have not expired.
//!
//! user-service publishes beside its keys whose tokens end early: of accounts
//! that are gone, and of those that have lost a role. It names them by
//! [`digest_of`] their subject, for everybody may read the list. An entry stays
//! for as long as a token may hold, so the list is as long as what happened in
//! that time, and [`MAX_REVOCATIONS`] at most.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use mesh_proto::shop::user::v1::Revocation;
use ring::digest::{SHA256, digest};

use super::Caller;

/// The most revocations that are published and taken; of more, the latest.
pub const MAX_REVOCATIONS: usize = 10_000;

const DIGEST: usize = 16;

/// What a subject is named by in a [`Revocation`]: the first 16 bytes of its
/// SHA-256.
#[must_use]
pub fn digest_of(subject: &str) -> Vec<u8> {
    short(subject).to_vec()
}

fn short(subject: &str) -> [u8; DIGEST] {
    let mut bytes = [0; DIGEST];
    bytes.copy_from_slice(&digest(&SHA256, subject.as_bytes()).as_ref()[..DIGEST]);
    bytes
}

/// The first second whose tokens are believed again, by subject. Cheap to
/// clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Revoked {
    list: Arc<RwLock<HashMap<[u8; DIGEST], u64>>>,
}

impl Revoked {
    /// Takes this list in place of the one before. What is malformed is passed
    /// over.
    pub(super) fn replace(&self, list: &[Revocation]) {
        let read = |revocation: &Revocation| {
            let subject = revocation.subject.as_slice().try_into().ok()?;
            Some((subject, u64::try_from(revocation.not_before).ok()?))
        };
        let list = list.iter().take(MAX_REVOCATIONS).filter_map(read).collect();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// Whether the token of `caller` that was issued at that second, since 1970,
    /// is believed no longer.
    pub(super) fn has(&self, caller: &Caller, issued: u64) -> bool {
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
    fn a_token_from_before_is_believed_no_longer_and_a_later_one_is() {
        let revoked = Revoked::default();
        assert!(!revoked.has(&user("ada"), 0));
        revoked.replace(&[entry("ada", 100)]);
        assert!(revoked.has(&user("ada"), 99) && !revoked.has(&user("ada"), 100));
        assert!(!revoked.has(&user("bob"), 99));
        assert!(!revoked.has(&Caller::Service("ada".parse().unwrap()), 99));
        revoked.replace(&[]);
        assert!(!revoked.has(&user("ada"), 99));
    }

    #[test]
    fn what_is_malformed_is_passed_over_and_the_list_is_bounded() {
        let revoked = Revoked::default();
        let broken =
            [Revocation { subject: vec![1; 15], not_before: 100 }, entry("bob", -1), entry("ada", 100)];
        revoked.replace(&broken);
        assert!(revoked.has(&user("ada"), 1) && !revoked.has(&user("bob"), 1));
        let many: Vec<_> = (0..2 * MAX_REVOCATIONS).map(|n| entry(&n.to_string(), 100)).collect();
        revoked.replace(&many);
        assert_eq!(revoked.list.read().unwrap().len(), MAX_REVOCATIONS);
    }
}
