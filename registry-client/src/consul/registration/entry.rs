//! An instance's own entry at its agent.

use std::fmt;

use crate::consul::{
    AgentService, Client, Error,
    agent::service_call,
    error::said,
    http::{Answer, Call},
    watch::{Change, Resource, cursor::By},
};

/// Our own entry at the agent, followed by content hash.
pub(super) struct Entry {
    pub(super) client: Client,
    pub(super) id: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry of `{}`", self.id)
    }
}

impl Resource for Entry {
    type Value = Option<AgentService>;
    const BY: By = By::Hash;

    fn call(&self) -> Result<Call, Error> {
        service_call(&self.id)
    }

    fn read(&self, answer: &Answer) -> Result<Option<AgentService>, Error> {
        let call = self.call()?;
        if answer.found {
            return self.client.decode(&call, answer).map(Some);
        }
        let words = said(&answer.body);
        if words.to_ascii_lowercase().contains("unknown service") {
            return Ok(None);
        }
        // A proxy's 404 is no word of the agent.
        Err(Error::Decode { addr: self.client.shown(), path: call.path, cause: format!("404 ({words})") })
    }

    fn compare(&self, held: Option<&Self::Value>, new: &Self::Value) -> Change {
        if held == Some(new) { Change::Same } else { Change::Differs }
    }

    /// The reconciler says what that means for the registration.
    fn complain(&self, _: &str, _: bool) {}

    fn relax(&self) {}
}
