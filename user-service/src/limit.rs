//! How often a login may fail.
//!
//! Failures are counted for the account that was tried, whether there is one
//! or not, as tried from one address; for the account, wherever it was tried
//! from; and for the address that tried. A few are free; after each further one
//! it takes longer until the next is heard. Who is not heard is not counted.
//!
//! So whoever guesses keeps themselves out, and not the owner, who comes from
//! another address. Against guesses from many addresses the account as a whole
//! has a limit too, which lets the owner wait for a minute at most. Behind a
//! proxy everybody has the proxy's address.

use std::{net::IpAddr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

use crate::domain::Email;

/// After this time without a failure, those before are forgotten.
pub const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// For one account from one address: a person mistypes.
const ACCOUNT_FROM: Limit =
    Limit { free: 5, first: Duration::from_secs(10), most: Duration::from_secs(15 * 60) };

/// For one account from all addresses: whoever has many keeps the owner waiting,
/// so it comes late and is short. It leaves 60 guesses an hour to all of them.
const ACCOUNT: Limit = Limit { free: 100, first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// For one address: many people may share it, and whoever keeps failing from
/// it keeps them all waiting, so it is more patient.
const PEER: Limit = Limit { free: 100, first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// How many failures are free, and how long to wait after the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    free: u32,
    /// After the first that is not free; each further one doubles it.
    first: Duration,
    most: Duration,
}

impl Limit {
    fn wait(self, failures: u32) -> Duration {
        let Some(over) = failures.checked_sub(self.free) else { return Duration::ZERO };
        self.first.saturating_mul(1 << over.min(16)).min(self.most)
    }
}

/// What failures are counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    key: String,
    limit: Limit,
}

impl Subject {
    /// The account of this email address, should there be one.
    #[must_use]
    pub fn account(email: &Email) -> Self {
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, email.as_str().as_bytes()));
        Self { key: format!("account:{hash}"), limit: ACCOUNT }
    }

    /// The same account as tried from the address `peer`; `None` is who has
    /// logged in to it already.
    #[must_use]
    pub fn account_from(email: &Email, peer: Option<IpAddr>) -> Self {
        let Self { key, .. } = Self::account(email);
        Self { key: format!("{key}@{}", peer.map(network).unwrap_or_default()), limit: ACCOUNT_FROM }
    }

    /// Who calls.
    #[must_use]
    pub fn peer(address: IpAddr) -> Self {
        Self { key: format!("peer:{}", network(address)), limit: PEER }
    }

    /// Keys that start here and end before the second are this account's, from
    /// whatever address.
    pub(crate) fn range_from_anywhere(&self) -> [String; 2] {
        // `A` follows `@`.
        [format!("{}@", self.key), format!("{}A", self.key)]
    }

    /// The subject as text, without anything that names a person.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How long it is not heard for after so many failures, the last of which
    /// was `since` ago.
    #[must_use]
    pub fn wait(&self, failures: u32, since: Duration) -> Duration {
        if since >= FORGOTTEN { Duration::ZERO } else { self.limit.wait(failures).saturating_sub(since) }
    }
}

/// The address, of IPv6 the network, of which one has at least that much.
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
    fn five_failures_of_an_account_from_one_address_wait_longer_and_longer() {
        let email = Email::parse("ada@example.com").unwrap();
        let subject = Subject::account_from(&email, Some([192, 0, 2, 1].into()));
        assert!(!subject.key().contains("ada"));
        for (failures, wait) in [(4, 0), (5, 10), (6, 20), (7, 40), (11, 640), (12, 900), (u32::MAX, 900)] {
            assert_eq!(subject.wait(failures, Duration::ZERO), seconds(wait), "{failures}");
        }
        assert_eq!(subject.wait(6, seconds(15)), seconds(5));
        assert_eq!(subject.wait(6, seconds(20)), Duration::ZERO);
        assert_eq!(subject.wait(u32::MAX, FORGOTTEN), Duration::ZERO);
    }

    #[test]
    fn an_account_from_everywhere_may_fail_more_often_and_waits_less() {
        let email = Email::parse("ada@example.com").unwrap();
        let account = Subject::account(&email);
        for (failures, wait) in [(99, 0), (100, 1), (103, 8), (u32::MAX, 60)] {
            assert_eq!(account.wait(failures, Duration::ZERO), seconds(wait), "{failures}");
        }
        let [start, end] = account.range_from_anywhere();
        for peer in [None, Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().unwrap())] {
            let key = Subject::account_from(&email, peer).key().to_owned();
            assert!(start <= key && key < end && key != account.key(), "{key}");
        }
    }

    #[test]
    fn an_address_may_fail_more_often_and_waits_less() {
        let subject = Subject::peer([192, 0, 2, 1].into());
        for (failures, wait) in [(99, 0), (100, 1), (103, 8), (u32::MAX, 60)] {
            assert_eq!(subject.wait(failures, Duration::ZERO), seconds(wait), "{failures}");
        }
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let key = |text: &str| Subject::peer(text.parse().unwrap()).key().to_owned();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), key("2001:db8:1:2::1"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
