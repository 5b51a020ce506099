//! The context of a request.

use std::sync::Arc;

use crate::model::Node;
use crate::store::Store;

/// The state and the node that every request needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Arc<Store>,
    pub(crate) node: Node,
}
