//! For tests of what calls through a channel: whom it really talks to.

pub use crate::channel::{Connector, Io};
