//! The other end of a connection.

use std::fmt;

use crate::instance::{Address, InstanceId};

/// An instance, by the id and the address that messages show.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: InstanceId,
    pub(super) address: Address,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id, self.address)
    }
}
