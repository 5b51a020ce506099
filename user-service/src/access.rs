//! Whose account is whose business.

use service_kit::{
    auth::{Caller, Role},
    error::Fault,
    value::InvalidValue,
};
use tonic::Code;

use crate::domain::UserId;

/// Why somebody may change an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is their own.
    Own,
    /// They may change every one.
    Admin,
}

/// That `caller` may see the account `id`: their own, or as staff any.
pub(crate) fn may_see(caller: &Caller, id: UserId) -> Result<(), Fault> {
    caller.may_act_for(&id.customer().map_err(|why| never(&why))?)
}

/// Whether `caller` may change the account `id`, and why.
pub(crate) fn may_change(caller: &Caller, id: UserId) -> Result<Standing, Fault> {
    let customer = id.customer().map_err(|why| never(&why))?;
    match caller {
        Caller::User { id, .. } if *id == customer => Ok(Standing::Own),
        _ if caller.has(Role::Admin) => Ok(Standing::Admin),
        _ => Err(not_owner()),
    }
}

/// That `caller` may say who may do what.
pub(crate) fn may_give_roles(caller: &Caller) -> Result<(), Fault> {
    if caller.has(Role::Admin) {
        return Ok(());
    }
    Err(only_admins_give_roles())
}

/// The account of the person who calls; `None` where no person does, or one who
/// can have no account here.
pub(crate) fn person(caller: &Caller) -> Option<UserId> {
    match caller {
        Caller::User { id, .. } => UserId::parse(id.as_str()).ok(),
        _ => None,
    }
}

pub(crate) fn not_owner() -> Fault {
    let words = "this is another's account; only that one and an admin may change it";
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
    use service_kit::value::CustomerId;

    use super::*;

    fn user(id: UserId, role: Role) -> Caller {
        Caller::User { id: CustomerId::parse(&id.to_string()).unwrap(), roles: [role].into() }
    }

    #[test]
    fn one_sees_and_changes_the_own_account_and_no_other() {
        let (ada, bob) = (UserId::new(), UserId::new());
        let caller = user(ada, Role::Customer);
        assert!(may_see(&caller, ada).is_ok() && may_see(&caller, bob).is_err());
        assert_eq!(may_change(&caller, ada), Ok(Standing::Own));
        assert_eq!(may_change(&caller, bob).unwrap_err().code(), Code::PermissionDenied);
        assert!(may_give_roles(&caller).is_err());
    }

    #[test]
    fn staff_see_every_account_and_an_admin_changes_it() {
        let (eve, bob) = (UserId::new(), UserId::new());
        let staff = user(eve, Role::Staff);
        assert!(may_see(&staff, bob).is_ok() && may_change(&staff, bob).is_err());
        assert!(may_give_roles(&staff).is_err());
        let admin = user(eve, Role::Admin);
        assert!(may_see(&admin, bob).is_ok() && may_give_roles(&admin).is_ok());
        assert_eq!(may_change(&admin, bob), Ok(Standing::Admin));
        assert_eq!(may_change(&admin, eve), Ok(Standing::Own));
    }

    #[test]
    fn services_change_nobody_and_nobody_is_refused() {
        let service = Caller::Service("order-service".parse().unwrap());
        assert!(may_change(&service, UserId::new()).is_err() && may_give_roles(&service).is_err());
        assert!(may_see(&Caller::Anonymous, UserId::new()).is_err());
        assert_eq!(may_change(&Caller::Unrestricted, UserId::new()), Ok(Standing::Admin));
    }
}
