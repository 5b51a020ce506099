//! The version of an agent.

use std::fmt;

use serde::Deserialize;

use super::{
    AgentSelf, Error,
    http::{HttpCall, HttpResponse, Transport},
};

/// The version of an agent, which newer request fields depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    text: String,
    number: (u32, u32, u32),
}

impl Version {
    /// Parses `1.22.5`, `1.22.5+ent`, `1.23.0-dev`. Unknown text is 0.0.0, with
    /// no newer field.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Self { text: text.to_owned(), number: (next(), next(), next()) }
    }

    /// Returns whether it is `major.minor` or newer.
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.number >= (major, minor, 0)
    }

    /// Returns whether it is Consul Enterprise, which has namespaces and
    /// partitions.
    #[must_use]
    pub fn is_enterprise(&self) -> bool {
        self.text.split_once('+').is_some_and(|(_, build)| build.contains("ent"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consul {}", self.text)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AgentVersion {
    human_version: String,
}

/// Reads `/v1/agent/version`, which needs no token, or `/v1/agent/self` from an
/// agent that is too old for it.
pub(super) async fn fetch(transport: &Transport) -> Result<Version, Error> {
    let call = HttpCall::get("/v1/agent/version", "agent:read");
    let response = transport.send(&call).await?;
    if response.found {
        let human: AgentVersion = decode(transport, &call, &response)?;
        return Ok(Version::parse(&human.human_version));
    }
    let call = HttpCall::get("/v1/agent/self", "agent:read");
    let response = transport.send(&call).await?;
    let this: AgentSelf = decode(transport, &call, &response)?;
    Ok(Version::parse(&this.config.version))
}

/// Decodes the JSON of a response; 404 is [`Error::NotFound`].
pub(super) fn decode<'a, T: Deserialize<'a>>(
    transport: &Transport,
    call: &HttpCall,
    response: &'a HttpResponse,
) -> Result<T, Error> {
    if !response.found {
        return Err(Error::NotFound {
            path: call.path.clone(),
            message: super::error::excerpt(&response.body),
        });
    }
    serde_json::from_slice(&response.body).map_err(|e| Error::Decode {
        addr: transport.addr(),
        path: call.path.clone(),
        cause: format!(
            "{e}; it begins `{}`",
            super::error::excerpt(&response.body[..response.body.len().min(40)])
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_and_editions_distinguished() {
        assert!(Version::parse("1.22.5").at_least(1, 16));
        assert!(!Version::parse("1.8.7+dfsg1").at_least(1, 16));
        assert!(!Version::parse("1.8.7+dfsg1").is_enterprise());
        assert!(Version::parse("1.22.5+ent.fips1402").is_enterprise());
        assert!(!Version::parse("nonsense").at_least(1, 0));
    }
}
