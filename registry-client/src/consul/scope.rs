//! Enterprise namespaces and partitions.

use tokio::sync::OnceCell;

use super::{
    Error, Version,
    http::{HttpCall, Transport},
    version,
};

/// The namespace and partition of requests. A community agent rejects both with
/// 400, even `default`, so the agent's edition is read once before the first of
/// them is sent.
#[derive(Debug)]
pub(super) struct Scope {
    namespace: Option<String>,
    partition: Option<String>,
    agent: OnceCell<Version>,
}

impl Scope {
    pub(super) fn new(namespace: Option<String>, partition: Option<String>) -> Self {
        Self { namespace, partition, agent: OnceCell::new() }
    }

    /// The query parameters of the scope; empty without one.
    pub(super) fn as_query(&self) -> Vec<(&'static str, String)> {
        let set = [("ns", &self.namespace), ("partition", &self.partition)].into_iter();
        set.filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }

    /// `call` with the scope.
    pub(super) async fn apply(&self, transport: &Transport, mut call: HttpCall) -> Result<HttpCall, Error> {
        if self.namespace.is_none() && self.partition.is_none() {
            return Ok(call);
        }
        let agent = self.agent.get_or_try_init(|| version::fetch(transport)).await?;
        let scopes =
            [("ns", "CONSUL_NAMESPACE", &self.namespace), ("partition", "CONSUL_PARTITION", &self.partition)];
        for (name, variable, value) in scopes {
            match value {
                Some(value) if agent.is_enterprise() => call = call.with(name, value),
                Some(value) if value != "default" => {
                    return Err(Error::Config(format!(
                        "{variable}=`{value}` needs Consul Enterprise and the agent at {} is {agent}: unset it",
                        transport.addr()
                    )));
                }
                Some(_) | None => {}
            }
        }
        Ok(call)
    }
}
