//! The roles of people.

use std::{fmt, str::FromStr};

use mesh_proto::shop::user::v1 as wire;

use crate::value::InvalidValue;

/// A role of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A customer, who sees and changes their own account, cart and orders.
    Customer,
    /// A member of staff, who maintains the catalogue and the stock and ships
    /// orders.
    Staff,
    /// An admin, who may do everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Customer, Self::Staff, Self::Admin];

    /// The role as tokens spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Staff => "staff",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| InvalidValue("must be customer, staff or admin".into()))
    }
}

impl From<Role> for wire::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Customer => Self::Customer,
            Role::Staff => Self::Staff,
            Role::Admin => Self::Admin,
        }
    }
}

impl TryFrom<wire::Role> for Role {
    type Error = InvalidValue;

    fn try_from(role: wire::Role) -> Result<Self, InvalidValue> {
        match role {
            wire::Role::Customer => Ok(Self::Customer),
            wire::Role::Staff => Ok(Self::Staff),
            wire::Role::Admin => Ok(Self::Admin),
            wire::Role::Unspecified => Err(InvalidValue("must be customer, staff or admin".into())),
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// True when `role` is in the set.
    #[must_use]
    pub const fn contains(self, role: Role) -> bool {
        self.0 & bit(role) != 0
    }

    /// True when the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles, the lowest first.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

const fn bit(role: Role) -> u8 {
    1 << role as u8
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |all, role| all | bit(role)))
    }
}

impl<const N: usize> From<[Role; N]> for Roles {
    fn from(roles: [Role; N]) -> Self {
        roles.into_iter().collect()
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(wire::Role::from(role).try_into(), Ok(role));
        }
        for other in ["", "Admin", "admin ", "service", "root"] {
            assert!(other.parse::<Role>().is_err(), "{other}");
        }
        assert!(Role::try_from(wire::Role::Unspecified).is_err());
    }

    #[test]
    fn roles_are_a_set() {
        let roles = Roles::from([Role::Admin, Role::Customer, Role::Admin]);
        assert!(roles.contains(Role::Admin) && !roles.contains(Role::Staff) && !roles.is_empty());
        assert_eq!(roles.iter().collect::<Vec<_>>(), [Role::Customer, Role::Admin]);
        assert!(Roles::default().is_empty());
    }
}
