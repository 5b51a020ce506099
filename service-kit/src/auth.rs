//! Who calls, and what they may do.
//!
//! [`Auth::guard`] stands in front of a generated server: a request passes with
//! a [`Caller`] among its extensions, or not at all. A handler asks
//! [`Caller::of`] and lets the caller act for a customer only after
//! [`Caller::may_act_for`]. A request that did not pass a guard has no caller
//! and is refused: forgetting the guard opens nothing.
//!
//! People show a token that user-service made with a [`Signer`]; services make
//! their own, from a [`Seed`] that all of them know, and [`Auth::client`] adds
//! it to the calls they make.

use registry_client::Channel;

mod caller;
mod guard;
mod key;
#[allow(dead_code, reason = "the guard will use it")]
mod outgoing;
#[allow(dead_code, reason = "the guard will use it")]
mod provider;
#[allow(dead_code, reason = "the guard will use it")]
mod refusal;
mod role;
mod seed;
#[allow(dead_code, reason = "the guard will use it")]
mod signer;
#[allow(dead_code, reason = "the guard will use it")]
mod token;

pub use caller::Caller;
pub use guard::Guarded;
pub use key::{InvalidKey, PublicKey};
pub use outgoing::Outgoing;
pub use role::{Role, Roles};
pub use seed::Seed;
pub use signer::{Claims, Signer};

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

    /// `channel`, on which every call says that this service makes it; while
    /// nobody is asked, none does.
    #[must_use]
    pub fn client(&self, channel: Channel) -> Outgoing {
        Outgoing::silent(channel)
    }
}
