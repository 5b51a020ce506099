//! The selection of a service's instances.

use std::fmt;

use crate::consul::{Error, HealthQuery};

/// The selection of a service's instances: all of the agent's datacenter unless
/// set.
///
/// ```
/// use registry_client::consul::Discovery;
///
/// let canary = Discovery::default().datacenter("dc2").filter(r#"Service.Meta.version == "v2""#);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Discovery {
    /// Another datacenter than the agent's; its instances are called at their
    /// WAN addresses, if they have any.
    pub datacenter: Option<String>,
    /// A filter expression of Consul's, such as `Service.Meta.version == "v2"`.
    pub filter: Option<String>,
}

impl Discovery {
    /// Selects another datacenter than the agent's.
    #[must_use]
    pub fn datacenter(mut self, name: impl Into<String>) -> Self {
        self.datacenter = Some(name.into());
        self
    }

    /// Selects the instances that match a filter expression of Consul's. The
    /// agent compiles it: every call fails while it is invalid.
    ///
    /// For a channel, an instance that no longer matches has left the registry,
    /// and is kept for a while while it is connected. To remove one at once,
    /// stop it or put it into maintenance.
    #[must_use]
    pub fn filter(mut self, expression: impl Into<String>) -> Self {
        self.filter = Some(expression.into());
        self
    }

    /// Rejects a selection that is always invalid.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        // As Consul validates the name of a datacenter.
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match (&self.datacenter, &self.filter) {
            (Some(name), _) if name.is_empty() || !name.chars().all(inner) => Err(Error::Config(format!(
                "`{name}` cannot be the name of a datacenter, which has letters, digits, - and _: \
                 `consul catalog datacenters` lists those that there are"
            ))),
            (_, Some(filter)) if filter.trim().is_empty() => Err(Error::Config(
                "the filter is empty: leave it out to find all instances, or write an expression such as \
                 `Service.Meta.version == \"v2\"`"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The health query. Any server may respond, so that discovery works
    /// without a leader.
    pub(super) fn query(&self) -> HealthQuery {
        HealthQuery { filter: self.filter.clone(), datacenter: self.datacenter.clone(), stale: true }
    }
}

impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(datacenter) = &self.datacenter {
            write!(f, " in datacenter `{datacenter}`")?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " with filter `{filter}`")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_agent_could_understand_is_rejected_with_the_fix() {
        for bad in ["", "dc 2", "dc/2", "dc.2"] {
            let said = Discovery::default().datacenter(bad).validate().unwrap_err().to_string();
            assert!(said.contains(&format!("`{bad}`")) && said.contains("catalog datacenters"), "{said}");
        }
        let said = Discovery::default().filter(" ").validate().unwrap_err().to_string();
        assert!(said.contains("leave it out"), "{said}");
        let sound = Discovery::default().datacenter("dc-2_B").filter("Service.Port != 1");
        assert_eq!(sound.validate(), Ok(()));
    }
}
