//! Accounts.

use std::fmt;

use mesh_proto::shop::user::v1 as wire;
use service_kit::{
    auth::Roles,
    id::Id,
    timestamp::Timestamp,
    value::{CustomerId, Etag, InvalidValue, line},
};

mod password;
mod roles;

pub use password::{Candidate, Password};
pub use roles::{parse_roles, read_roles, with_role, written_roles};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// The email address.
    pub email: Email,
    /// The name of its owner.
    pub display_name: DisplayName,
    /// The roles of its owner.
    pub roles: Roles,
    /// The time of creation.
    pub created: Timestamp,
    /// The time of the last change.
    pub updated: Timestamp,
    /// The version.
    pub etag: Etag,
}

/// The id of an account.
pub type UserId = Id<User>;

/// The id of the account's owner in carts and orders.
///
/// # Errors
/// Never: a UUID is a customer id.
pub fn customer_of(id: UserId) -> Result<CustomerId, InvalidValue> {
    CustomerId::parse(&id.to_string())
}

/// An email address in lower case: a name, one `@`, a host.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    const MAX_LENGTH: usize = 254;

    /// Parses an address, without checking that mail arrives there.
    ///
    /// # Errors
    /// When it is invalid.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let why =
            || InvalidValue(format!("must be an email address of at most {} characters", Self::MAX_LENGTH));
        let fits = text.len() <= Self::MAX_LENGTH * 4;
        // The lower case of other letters may be longer.
        let lower = if fits { text.to_lowercase() } else { return Err(why()) };
        let is_valid = lower.chars().count() <= Self::MAX_LENGTH
            && !lower.chars().any(|c| c.is_control() || c.is_whitespace() || is_invisible(c));
        match lower.split_once('@') {
            Some((name, host)) if is_valid && !name.is_empty() && !host.is_empty() && !host.contains('@') => {
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

/// Hides the address, which must not be logged.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

/// True for marks of direction and of no width, with which one address could look like
/// another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The name of a person: 1 to 100 characters on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    const MAX_LENGTH: usize = 100;

    /// Parses a name.
    ///
    /// # Errors
    /// When it is empty, too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        line(text, Self::MAX_LENGTH).map(Self)
    }

    /// The first characters of the address as a name.
    #[must_use]
    pub fn of(email: &Email) -> Self {
        Self(email.0.chars().take(Self::MAX_LENGTH).collect())
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
    fn an_invalid_address_is_rejected_without_showing_it() {
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
    fn ids_are_uuids_in_any_spelling() {
        let id = UserId::new(Timestamp::now());
        assert_eq!(UserId::parse(&id.to_string().to_uppercase()).unwrap(), id);
        assert_eq!(customer_of(id).unwrap().as_str(), id.to_string());
        for bad in ["", "ada", "00000000-0000-0000-0000-000000000000", "'; DROP TABLE users; --"] {
            assert!(UserId::parse(bad).is_err(), "{bad}");
        }
    }
}
