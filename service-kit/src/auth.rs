//! Who calls, and what they may do.
//!
//! [`Auth::guard`] stands in front of a generated server: a request passes with
//! a [`Caller`] among its extensions, or not at all. A handler asks
//! [`Caller::of`] and lets the caller act for a customer only after
//! [`Caller::may_act_for`]. A request that did not pass a guard has no caller
//! and is refused: forgetting the guard opens nothing.

use tonic::{Code, Request};

use crate::{error::Fault, value::CustomerId};

mod guard;

pub use guard::Guarded;

/// Whether and how callers are asked who they are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Auth {}

impl Auth {
    /// Nobody is asked: everybody may do everything. For development on one
    /// machine.
    #[must_use]
    pub fn off() -> Self {
        Self {}
    }

    /// `service`, behind this.
    #[must_use]
    pub fn guard<S>(&self, service: S) -> Guarded<S> {
        Guarded::new(service, self.clone())
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caller {
    /// Nobody was asked.
    Anyone,
}

impl Caller {
    /// Who has sent this request.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it did not pass a guard.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Fault> {
        let words = "the call carries no identity";
        request.extensions().get().ok_or_else(|| Fault::new(Code::Unauthenticated, "UNAUTHENTICATED", words))
    }

    /// Whether the caller may see and change what belongs to `customer`: their
    /// own, or anybody's for staff, admins and services.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn may_act_for(&self, _customer: &CustomerId) -> Result<(), Fault> {
        match self {
            Self::Anyone => Ok(()),
        }
    }
}
