//! The settings of the admin endpoint.

use std::net::SocketAddr;

use super::Environment;
use crate::{Error, instance::ParseError};

/// The settings of the endpoint for `/debug/mesh` and `/metrics`; see
/// [`Mesh::admin`](crate::Mesh::admin).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdminConfig {
    /// The address to listen on (`CONSORT_ADMIN`); port 0 takes a free one.
    pub address: SocketAddr,
    /// True if the address may be reachable from other machines; off unless set
    /// (`CONSORT_ADMIN_ANYWHERE=on`). There is no encryption and no
    /// authentication.
    pub anywhere: bool,
}

impl AdminConfig {
    /// An endpoint on this address, which must be a loopback one.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, anywhere: false }
    }

    /// The settings of the environment: `CONSORT_ADMIN`, an address such as
    /// `127.0.0.1:9600`, and `CONSORT_ADMIN_ANYWHERE`; `None` when the first is
    /// unset or empty.
    ///
    /// # Errors
    /// When the value of a variable is invalid.
    pub fn from_env() -> Result<Option<Self>, Error> {
        Self::read(&Environment::of_process())
    }

    fn read(env: &Environment<'_>) -> Result<Option<Self>, Error> {
        let address = env.parse_with("CONSORT_ADMIN", |text| {
            text.parse::<SocketAddr>()
                .map_err(|_| ParseError(format!("`{text}` is not an address such as 127.0.0.1:9600")))
        })?;
        let anywhere = env.switch("CONSORT_ADMIN_ANYWHERE")?.unwrap_or(false);
        Ok(address.map(|address| Self { address, anywhere }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(address: &'static str, anywhere: &'static str) -> Result<Option<AdminConfig>, String> {
        let lookup = move |name: &str| match name {
            "CONSORT_ADMIN" => Some(address.into()),
            "CONSORT_ADMIN_ANYWHERE" => Some(anywhere.into()),
            _ => None,
        };
        AdminConfig::read(&Environment::new(&lookup)).map_err(|e| e.to_string())
    }

    #[test]
    fn there_is_none_unless_it_is_asked_for() {
        assert_eq!(read("", ""), Ok(None));
        let expected = AdminConfig::new("127.0.0.1:9600".parse().unwrap());
        assert_eq!(read("127.0.0.1:9600", ""), Ok(Some(expected)));
        assert!(read("0.0.0.0:0", "on").unwrap().unwrap().anywhere);
    }

    #[test]
    fn what_is_no_address_is_named() {
        assert!(read("9600", "").unwrap_err().starts_with("CONSORT_ADMIN: `9600`"));
        assert!(read("127.0.0.1:1", "yes").unwrap_err().starts_with("CONSORT_ADMIN_ANYWHERE: `yes`"));
    }
}
