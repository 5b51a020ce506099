//! Roles in the protocol and in the database.

use mesh_proto::shop::user::v1 as wire;
use service_kit::{
    auth::{Role, Roles},
    value::InvalidValue,
};

/// Parses the roles of the protocol, at least one.
///
/// # Errors
/// When there is none, or one is unknown.
pub fn parse_roles(numbers: &[i32]) -> Result<Roles, InvalidValue> {
    let known = |number: &i32| Role::try_from(wire::Role::try_from(*number).ok()?).ok();
    let roles: Option<Roles> = numbers.iter().map(known).collect();
    roles
        .filter(|roles| !roles.is_empty())
        .ok_or_else(|| InvalidValue("must be one or more of ROLE_CUSTOMER, ROLE_STAFF and ROLE_ADMIN".into()))
}

/// Parses roles from the text of [`written_roles`].
///
/// # Errors
/// When one is unknown.
pub fn read_roles(text: &str) -> Result<Roles, InvalidValue> {
    text.split(',').map(str::parse::<Role>).collect()
}

/// The text of roles for the database.
#[must_use]
pub fn written_roles(roles: Roles) -> String {
    let names: Vec<_> = roles.iter().map(Role::as_str).collect();
    names.join(",")
}

/// The roles plus one more.
#[must_use]
pub fn with_role(roles: Roles, role: Role) -> Roles {
    roles.iter().chain([role]).collect()
}

pub(super) fn wire_roles(roles: Roles) -> Vec<i32> {
    roles.iter().map(|role| wire::Role::from(role).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_as_they_were_written() {
        for (numbers, text) in [(vec![1], "customer"), (vec![3, 1], "customer,admin"), (vec![2, 2], "staff")]
        {
            let roles = parse_roles(&numbers).unwrap();
            assert_eq!(written_roles(roles), text);
            assert_eq!(read_roles(text).unwrap(), roles);
            assert!(wire_roles(roles).iter().all(|number| numbers.contains(number)));
        }
        let both = with_role(Roles::from([Role::Customer]), Role::Admin);
        assert_eq!(written_roles(both), "customer,admin");
    }

    #[test]
    fn nothing_and_what_is_not_known_are_no_roles() {
        for bad in [vec![], vec![0], vec![4], vec![1, -1], vec![i32::MAX]] {
            assert!(parse_roles(&bad).is_err(), "{bad:?}");
        }
        assert!(read_roles("").is_err() && read_roles("admin,root").is_err());
    }
}
