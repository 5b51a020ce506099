//! The limit of failed logins.
//!
//! Failures are counted for an account from one address, even if the account does not
//! exist; for an account from all addresses; and for an address. A few are free;
//! after each further one the backoff until the next attempt grows. Attempts during a
//! backoff are rejected and not counted.
//!
//! Guesses therefore lock out the guesser, and not the owner, who has another address. The
//! limit of an account from all addresses slows down guesses from many addresses, and
//! delays the owner by a minute at most. Behind a proxy all callers have the proxy's
//! address.

use std::{net::IpAddr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

use crate::domain::Email;

/// The time after the last failure, after which earlier ones no longer count.
pub const FAILURE_RETENTION: Duration = Duration::from_secs(3_600);

/// The limit of one account from one address.
const ACCOUNT_AND_ADDRESS: FailureLimit = FailureLimit {
    free: 5,
    initial_backoff: Duration::from_secs(10),
    max_backoff: Duration::from_secs(15 * 60),
};

/// The limit of one account from all addresses. An attacker with many addresses
/// delays the owner, so it begins late and is short. It allows 60 guesses an hour.
const ACCOUNT: FailureLimit =
    FailureLimit { free: 100, initial_backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(60) };

/// The limit of one address, which many people may share.
const ADDRESS: FailureLimit =
    FailureLimit { free: 100, initial_backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(60) };

/// The number of free failures, and the backoff after the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FailureLimit {
    free: u32,
    /// The backoff after the first failure that is not free. Each further one doubles
    /// it.
    initial_backoff: Duration,
    max_backoff: Duration,
}

impl FailureLimit {
    fn backoff(self, failures: u32) -> Duration {
        let Some(over) = failures.checked_sub(self.free) else { return Duration::ZERO };
        self.initial_backoff.saturating_mul(1 << over.min(16)).min(self.max_backoff)
    }
}

/// The subject for which failures are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureSubject {
    key: String,
    limit: FailureLimit,
}

impl FailureSubject {
    /// The account of this email address, which need not exist.
    #[must_use]
    pub fn account(email: &Email) -> Self {
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, email.as_str().as_bytes()));
        Self { key: format!("account:{hash}"), limit: ACCOUNT }
    }

    /// The same account from the address `peer`; `None` for its logged-in owner.
    #[must_use]
    pub fn account_from(email: &Email, peer: Option<IpAddr>) -> Self {
        let Self { key, .. } = Self::account(email);
        Self { key: format!("{key}@{}", peer.map(network).unwrap_or_default()), limit: ACCOUNT_AND_ADDRESS }
    }

    /// The address of the caller.
    #[must_use]
    pub fn peer(address: IpAddr) -> Self {
        Self { key: format!("peer:{}", network(address)), limit: ADDRESS }
    }

    /// The range of this account's keys from all addresses, without its end.
    pub(crate) fn key_range(&self) -> [String; 2] {
        // `A` follows `@`.
        [format!("{}@", self.key), format!("{}A", self.key)]
    }

    /// The key of the subject, without personal data.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The rest of the backoff after so many failures, the last of which was `since`
    /// ago.
    #[must_use]
    pub fn backoff(&self, failures: u32, since: Duration) -> Duration {
        if since >= FAILURE_RETENTION {
            return Duration::ZERO;
        }
        self.limit.backoff(failures).saturating_sub(since)
    }
}

/// The address, or the /64 network of an IPv6 address, which one customer has at
/// least.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn failures_of_an_account_from_one_address_have_a_growing_backoff() {
        let email = Email::parse("ada@example.com").unwrap();
        let subject = FailureSubject::account_from(&email, Some([192, 0, 2, 1].into()));
        assert!(!subject.key().contains("ada"));
        for (failures, wait) in [(4, 0), (5, 10), (6, 20), (7, 40), (11, 640), (12, 900), (u32::MAX, 900)] {
            assert_eq!(subject.backoff(failures, Duration::ZERO), seconds(wait), "{failures}");
        }
        assert_eq!(subject.backoff(6, seconds(15)), seconds(5));
        assert_eq!(subject.backoff(6, seconds(20)), Duration::ZERO);
        assert_eq!(subject.backoff(u32::MAX, FAILURE_RETENTION), Duration::ZERO);
    }

    #[test]
    fn an_account_from_all_addresses_has_more_free_failures_and_less_backoff() {
        let email = Email::parse("ada@example.com").unwrap();
        let account = FailureSubject::account(&email);
        for (failures, wait) in [(99, 0), (100, 1), (103, 8), (u32::MAX, 60)] {
            assert_eq!(account.backoff(failures, Duration::ZERO), seconds(wait), "{failures}");
        }
        let [start, end] = account.key_range();
        for peer in [None, Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().unwrap())] {
            let key = FailureSubject::account_from(&email, peer).key().to_owned();
            assert!(start <= key && key < end && key != account.key(), "{key}");
        }
    }

    #[test]
    fn an_address_has_more_free_failures_and_less_backoff() {
        let subject = FailureSubject::peer([192, 0, 2, 1].into());
        for (failures, wait) in [(99, 0), (100, 1), (103, 8), (u32::MAX, 60)] {
            assert_eq!(subject.backoff(failures, Duration::ZERO), seconds(wait), "{failures}");
        }
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let key = |text: &str| FailureSubject::peer(text.parse().unwrap()).key().to_owned();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), key("2001:db8:1:2::1"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
