//! The caller of a method.

use std::sync::Arc;

use registry_client::instance::ServiceName;
use tonic::{Code, Request};

use super::{Role, Roles};
use crate::{error::Fault, value::CustomerId};

/// The authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caller {
    /// Any caller while authentication is off, which may do everything.
    Unrestricted,
    /// The unauthenticated caller of a public method, which may do nothing else.
    Anonymous,
    /// A person.
    User {
        /// The customer's id.
        id: CustomerId,
        /// The customer's roles.
        roles: Roles,
    },
    /// One of the shop's own services.
    Service(ServiceName),
}

impl Caller {
    /// The caller of this request.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it did not pass a guard.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Fault> {
        let words = "the call carries no identity";
        let caller = request.extensions().get::<Arc<Self>>().map(|caller| &**caller);
        caller.ok_or_else(|| Fault::new(Code::Unauthenticated, "UNAUTHENTICATED", words))
    }

    /// Checks that the caller may see and change the data of `customer`: their own,
    /// or everybody's for staff, admins and services.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_act_for(&self, customer: &CustomerId) -> Result<(), Fault> {
        let may = match self {
            Self::Unrestricted | Self::Service(_) => true,
            Self::Anonymous => false,
            Self::User { id, .. } => id == customer || self.has(Role::Staff),
        };
        let words = "this belongs to another customer; only its owner and staff may see or change it";
        if may { Ok(()) } else { Err(Fault::new(Code::PermissionDenied, "NOT_OWNER", words)) }
    }

    /// True when the caller has a role. An admin has every role, a service none.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        match self {
            Self::Unrestricted => true,
            Self::Anonymous | Self::Service(_) => false,
            Self::User { roles, .. } => roles.contains(role) || roles.contains(Role::Admin),
        }
    }

    /// A key that identifies the caller, the same in every call.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Unrestricted => "anyone".to_owned(),
            Self::Anonymous => "nobody".to_owned(),
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
        assert_eq!(may(&Caller::Unrestricted), [true, true]);
        assert_eq!(may(&Caller::Anonymous), [false, false]);
        let fault = user("ada", []).may_act_for(&bob).unwrap_err();
        assert_eq!(fault.code(), Code::PermissionDenied);
    }

    #[test]
    fn an_admin_has_every_role_and_a_service_none() {
        let has = |caller: &Caller| Role::ALL.map(|role| caller.has(role));
        assert_eq!(has(&user("eve", [Role::Admin])), [true, true, true]);
        assert_eq!(has(&user("eve", [Role::Staff])), [false, true, false]);
        assert_eq!(has(&Caller::Service("order-service".parse().unwrap())), [false; 3]);
        assert_eq!(has(&Caller::Anonymous), [false; 3]);
    }

    #[test]
    fn no_two_callers_share_a_key() {
        let service = Caller::Service("order-service".parse().unwrap());
        let callers =
            [Caller::Unrestricted, Caller::Anonymous, user("anyone", []), user("order-service", []), service];
        let mut keys: Vec<_> = callers.iter().map(Caller::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), callers.len());
    }
}
