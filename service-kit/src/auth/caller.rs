//! Who calls.

use std::sync::Arc;

use registry_client::instance::ServiceName;
use tonic::{Code, Request};

use super::{Role, Roles};
use crate::{error::Fault, value::CustomerId};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caller {
    /// Nobody was asked, as authentication is off: may do everything.
    Anyone,
    /// Somebody who calls a public method: was not asked, and may do nothing
    /// else.
    Nobody,
    /// A person.
    User {
        /// Who it is.
        id: CustomerId,
        /// What they may do.
        roles: Roles,
    },
    /// One of the shop's own services.
    Service(ServiceName),
}

impl Caller {
    /// Who has sent this request.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it did not pass a guard.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Fault> {
        let words = "the call carries no identity";
        let caller = request.extensions().get::<Arc<Self>>().map(|caller| &**caller);
        caller.ok_or_else(|| Fault::new(Code::Unauthenticated, "UNAUTHENTICATED", words))
    }

    /// Whether the caller may see and change what belongs to `customer`: their
    /// own, or anybody's for staff, admins and services.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_act_for(&self, customer: &CustomerId) -> Result<(), Fault> {
        let may = match self {
            Self::Anyone | Self::Service(_) => true,
            Self::Nobody => false,
            Self::User { id, .. } => id == customer || self.has(Role::Staff),
        };
        let words = "this belongs to another customer; only that one and the staff may see or change it";
        if may { Ok(()) } else { Err(Fault::new(Code::PermissionDenied, "NOT_OWNER", words)) }
    }

    /// Whether the caller has a role: a person who was given it, and an admin
    /// every one. No service has any.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        match self {
            Self::Anyone => true,
            Self::Nobody | Self::Service(_) => false,
            Self::User { roles, .. } => roles.contains(role) || roles.contains(Role::Admin),
        }
    }

    /// A text that is the same in every call of this caller, and no other's.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Anyone => "anyone".to_owned(),
            Self::Nobody => "nobody".to_owned(),
            Self::User { id, .. } => format!("user:{}", id.as_str()),
            Self::Service(name) => format!("service:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str, roles: impl Into<Roles>) -> Caller {
        Caller::User { id: CustomerId::parse(id).unwrap(), roles: roles.into() }
    }

    #[test]
    fn a_request_that_passed_no_guard_has_no_caller() {
        let fault = Caller::of(&Request::new(())).unwrap_err();
        assert_eq!(fault.code(), Code::Unauthenticated);
    }

    #[test]
    fn customers_act_for_themselves_and_staff_for_all() {
        let (ada, bob) = (CustomerId::parse("ada").unwrap(), CustomerId::parse("bob").unwrap());
        let may = |caller: &Caller| [&ada, &bob].map(|whose| caller.may_act_for(whose).is_ok());
        assert_eq!(may(&user("ada", [Role::Customer])), [true, false]);
        assert_eq!(may(&user("ADA", [Role::Customer])), [false, false]);
        assert_eq!(may(&user("eve", [Role::Staff])), [true, true]);
        assert_eq!(may(&user("eve", [Role::Admin])), [true, true]);
        assert_eq!(may(&Caller::Service("order-service".parse().unwrap())), [true, true]);
        assert_eq!(may(&Caller::Anyone), [true, true]);
        assert_eq!(may(&Caller::Nobody), [false, false]);
        let fault = user("ada", []).may_act_for(&bob).unwrap_err();
        assert_eq!(fault.code(), Code::PermissionDenied);
    }

    #[test]
    fn an_admin_has_every_role_and_a_service_none() {
        let has = |caller: &Caller| Role::ALL.map(|role| caller.has(role));
        assert_eq!(has(&user("eve", [Role::Admin])), [true, true, true]);
        assert_eq!(has(&user("eve", [Role::Staff])), [false, true, false]);
        assert_eq!(has(&Caller::Service("order-service".parse().unwrap())), [false; 3]);
        assert_eq!(has(&Caller::Nobody), [false; 3]);
    }

    #[test]
    fn no_two_callers_share_a_key() {
        let service = Caller::Service("order-service".parse().unwrap());
        let callers =
            [Caller::Anyone, Caller::Nobody, user("anyone", []), user("order-service", []), service];
        let mut keys: Vec<_> = callers.iter().map(Caller::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), callers.len());
    }
}
