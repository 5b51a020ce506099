//! What an account is.

use std::fmt;

use mesh_proto::shop::user::v1 as wire;
use service_kit::{
    auth::Roles,
    timestamp::Timestamp,
    value::{CustomerId, Etag, InvalidValue, line},
};
use uuid::Uuid;

mod password;
mod roles;

pub use password::{Candidate, Password};
pub use roles::{parse_roles, read_roles, with_role, written_roles};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// What it is known by.
    pub id: UserId,
    /// Its address.
    pub email: Email,
    /// What to call who has it.
    pub display_name: DisplayName,
    /// What they may do.
    pub roles: Roles,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Its version.
    pub etag: Etag,
}

/// The id of an account: a UUID, of version 7 when this service made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Uuid);

impl UserId {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads an id; how a UUID is spelt makes no difference.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
        uuid.map(Self).ok_or_else(|| InvalidValue("must be a UUID that is not all zeroes".into()))
    }

    /// As carts and orders know who has the account.
    ///
    /// # Errors
    /// Never: a UUID is a customer id.
    pub fn customer(self) -> Result<CustomerId, InvalidValue> {
        CustomerId::parse(&self.to_string())
    }
}

impl Default for UserId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// An email address, in lower case: something, one `@`, something.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    const LONGEST: usize = 254;

    /// Reads an address. Whether mail arrives there is not asked.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let why =
            || InvalidValue(format!("must be an email address of at most {} characters", Self::LONGEST));
        let fits = text.len() <= Self::LONGEST * 4;
        // What other letters look like in lower case may be longer.
        let lower = if fits { text.to_lowercase() } else { return Err(why()) };
        let sound = lower.chars().count() <= Self::LONGEST
            && !lower.chars().any(|c| c.is_control() || c.is_whitespace() || is_invisible(c));
        match lower.split_once('@') {
            Some((name, host)) if sound && !name.is_empty() && !host.is_empty() && !host.contains('@') => {
                Ok(Self(lower))
            }
            _ => Err(why()),
        }
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An address is not for logs.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

/// What changes how a text reads and is not seen itself: marks of direction
/// and of no width, by which one address could be made to look like another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What to call somebody: 1 to 100 characters on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    const LONGEST: usize = 100;

    /// Reads a name.
    ///
    /// # Errors
    /// When it is empty, too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        line(text, Self::LONGEST).map(Self)
    }

    /// The address in place of a name, as much of it as a name may be long.
    #[must_use]
    pub fn of(email: &Email) -> Self {
        Self(email.0.chars().take(Self::LONGEST).collect())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<User> for wire::User {
    fn from(user: User) -> Self {
        Self {
            user_id: user.id.to_string(),
            email: user.email.0,
            display_name: user.display_name.0,
            roles: roles::wire_roles(user.roles),
            create_time: Some(user.created.into()),
            update_time: Some(user.updated.into()),
            etag: user.etag.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_lower_case() {
        for (text, read) in [("Ada@Example.COM", "ada@example.com"), ("a+b@c", "a+b@c"), ("Ä@ö.de", "ä@ö.de")]
        {
            assert_eq!(Email::parse(text).unwrap().as_str(), read);
        }
        let longest = format!("{}@b", "a".repeat(252));
        assert!(Email::parse(&longest).is_ok() && Email::parse(&format!("a{longest}")).is_err());
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        let bad =
            ["", "@", "a@", "@b", "a", "a@b@c", "a b@c", "a@b\n", "a\0@b", "a\u{202e}@b", "a\u{200b}@b"];
        for text in bad.iter().map(|text| (*text).to_owned()).chain(["x".repeat(1 << 20)]) {
            let why = Email::parse(&text).unwrap_err().to_string();
            assert!(why.len() < 100, "{why}");
        }
    }

    #[test]
    fn an_address_is_not_shown_in_debug() {
        assert_eq!(format!("{:?}", Email::parse("ada@example.com").unwrap()), "Email(…)");
    }

    #[test]
    fn ids_are_uuids_however_they_are_spelt() {
        let id = UserId::new();
        assert_eq!(UserId::parse(&id.to_string().to_uppercase()).unwrap(), id);
        assert_eq!(id.customer().unwrap().as_str(), id.to_string());
        for bad in ["", "ada", "00000000-0000-0000-0000-000000000000", "'; DROP TABLE users; --"] {
            assert!(UserId::parse(bad).is_err(), "{bad}");
        }
    }
}
