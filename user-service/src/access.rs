//! The access to accounts.

use service_kit::{
    auth::{Caller, Role},
    error::Fault,
    value::InvalidValue,
};
use tonic::Code;

use crate::domain::{UserId, customer_of};

/// The access of a caller to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLevel {
    /// The caller is its owner.
    Owner,
    /// The caller may change every account.
    Admin,
}

/// Checks that `caller` may see the account `id`: their own, or every one for staff.
pub(crate) fn may_see(caller: &Caller, id: UserId) -> Result<(), Fault> {
    caller.may_act_for(&customer_of(id).map_err(|why| never(&why))?)
}

/// Checks that `caller` may change the account `id`; returns the access level.
pub(crate) fn may_change(caller: &Caller, id: UserId) -> Result<AccessLevel, Fault> {
    let customer = customer_of(id).map_err(|why| never(&why))?;
    match caller {
        Caller::User { id, .. } if *id == customer => Ok(AccessLevel::Owner),
        _ if caller.has(Role::Admin) => Ok(AccessLevel::Admin),
        _ => Err(not_owner()),
    }
}

/// Checks that `caller` may change roles.
pub(crate) fn may_give_roles(caller: &Caller) -> Result<(), Fault> {
    if caller.has(Role::Admin) {
        return Ok(());
    }
    Err(only_admins_give_roles())
}

/// The account id of the calling person; `None` when no person calls, or one without
/// an account here.
pub(crate) fn person(caller: &Caller) -> Option<UserId> {
    match caller {
        Caller::User { id, .. } => UserId::parse(id.as_str()).ok(),
        _ => None,
    }
}

pub(crate) fn not_owner() -> Fault {
    let words = "this is the account of another user; only its owner and admins may change it";
    Fault::new(Code::PermissionDenied, "NOT_OWNER", words)
}

pub(crate) fn only_admins_give_roles() -> Fault {
    Fault::new(Code::PermissionDenied, "ROLE_MISSING", "only an admin may change roles")
}

fn never(why: &InvalidValue) -> Fault {
    service_kit::error::internal(why)
}

#[cfg(test)]
mod tests {
    use service_kit::{timestamp::Timestamp, value::CustomerId};

    use super::*;

    fn user(id: UserId, role: Role) -> Caller {
        Caller::User { id: CustomerId::parse(&id.to_string()).unwrap(), roles: [role].into() }
    }

    #[test]
    fn customers_see_and_change_their_own_account_and_no_other() {
        let (ada, bob) = (UserId::new(Timestamp::now()), UserId::new(Timestamp::now()));
        let caller = user(ada, Role::Customer);
        assert!(may_see(&caller, ada).is_ok() && may_see(&caller, bob).is_err());
        assert_eq!(may_change(&caller, ada), Ok(AccessLevel::Owner));
        assert_eq!(may_change(&caller, bob).unwrap_err().code(), Code::PermissionDenied);
        assert!(may_give_roles(&caller).is_err());
    }

    #[test]
    fn staff_see_every_account_and_an_admin_changes_it() {
        let (eve, bob) = (UserId::new(Timestamp::now()), UserId::new(Timestamp::now()));
        let staff = user(eve, Role::Staff);
        assert!(may_see(&staff, bob).is_ok() && may_change(&staff, bob).is_err());
        assert!(may_give_roles(&staff).is_err());
        let admin = user(eve, Role::Admin);
        assert!(may_see(&admin, bob).is_ok() && may_give_roles(&admin).is_ok());
        assert_eq!(may_change(&admin, bob), Ok(AccessLevel::Admin));
        assert_eq!(may_change(&admin, eve), Ok(AccessLevel::Owner));
    }

    #[test]
    fn services_change_no_account_and_anonymous_callers_see_none() {
        let service = Caller::Service("order-service".parse().unwrap());
        assert!(
            may_change(&service, UserId::new(Timestamp::now())).is_err() && may_give_roles(&service).is_err()
        );
        assert!(may_see(&Caller::Anonymous, UserId::new(Timestamp::now())).is_err());
        assert_eq!(may_change(&Caller::Unrestricted, UserId::new(Timestamp::now())), Ok(AccessLevel::Admin));
    }
}
