//! The entry of the instance at its agent.

use std::fmt;

use crate::consul::{
    AgentService, Client, Error,
    agent::service_call,
    error::excerpt,
    http::{HttpCall, HttpResponse},
    watch::{Change, Resource, cursor::BlockingBy},
};

/// The entry of the instance at its agent, watched by content hash.
pub(super) struct OwnEntry {
    pub(super) client: Client,
    pub(super) id: String,
}

impl fmt::Display for OwnEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry of `{}`", self.id)
    }
}

impl Resource for OwnEntry {
    type Value = Option<AgentService>;
    const BLOCKING: BlockingBy = BlockingBy::Hash;

    fn call(&self) -> Result<HttpCall, Error> {
        service_call(&self.id)
    }

    fn read(&self, response: &HttpResponse) -> Result<Option<AgentService>, Error> {
        let call = self.call()?;
        if response.found {
            return self.client.decode(&call, response).map(Some);
        }
        let words = excerpt(&response.body);
        if words.to_ascii_lowercase().contains("unknown service") {
            return Ok(None);
        }
        // A 404 of a proxy is not the agent's.
        Err(Error::Decode {
            addr: self.client.shown_addr(),
            path: call.path,
            cause: format!("404 ({words})"),
        })
    }

    fn compare(&self, current: Option<&Self::Value>, new: &Self::Value) -> Change {
        if current == Some(new) { Change::Same } else { Change::Differs }
    }

    /// The reconciler logs failures.
    fn log_failure(&self, _: &str, _: bool) {}

    fn log_recovery(&self) {}
}
