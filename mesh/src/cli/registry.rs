//! The `--registry` option of `mesh up`.

use std::str::FromStr;

/// The Consul that is started by default.
pub(crate) const DEFAULT_PROGRAM: &str = "consul";

/// The value of `--registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RegistrySpec {
    /// A running Consul, else a new one.
    Auto,
    /// The embedded registry.
    Embedded,
    /// A new `consul agent -dev`.
    Consul,
    /// The running Consul with that URL.
    At(String),
}

impl FromStr for RegistrySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "embedded" => Ok(Self::Embedded),
            "consul" => Ok(Self::Consul),
            url if url.contains("://") => Ok(Self::At(url.trim_end_matches('/').to_owned())),
            _ => Err("not auto, embedded, consul or a URL such as http://127.0.0.1:8500".to_owned()),
        }
    }
}
