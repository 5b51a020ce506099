//! The address of an agent.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use super::Error;

/// The address of an agent, parsed from the forms of `CONSUL_HTTP_ADDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: EndpointAddress,
    /// The prefix of every path, for an agent behind a reverse proxy.
    pub(super) prefix: String,
    /// The form for messages.
    pub(super) shown: Arc<str>,
}

/// The address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndpointAddress {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses `host:port`, `http://…`, `https://…` or `unix:///path`. `tls` is
    /// the value of `CONSUL_HTTP_SSL`; as with Consul's own command line,
    /// `https://` enables TLS too and `http://` does not disable it.
    pub(super) fn parse(text: &str, tls: bool) -> Result<Self, Error> {
        // A text with these may contain a user, a password or a token.
        let shown = if text.contains(['@', '?', '#']) { String::new() } else { format!(" `{text}`") };
        let bad = |why: &str| {
            Error::Config(format!(
                "Consul address{shown} {why}: write host:port, http://host:port, https://host:port or \
                 unix:///path (CONSUL_HTTP_ADDR)"
            ))
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => {
                let address = EndpointAddress::Unix(path.into());
                return Ok(Self { address, prefix: String::new(), shown: text.into() });
            }
            Some(("unix", _)) => return Err(bad("needs an absolute path")),
            Some(("http", rest)) => (tls, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(bad("has an unknown scheme")),
            None => (tls, text),
        };
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if rest.contains(['?', '#', '@']) {
            return Err(bad("holds more than an address (a user and password belong into CONSUL_HTTP_AUTH)"));
        }
        let parsed: http::uri::Authority = authority.parse().map_err(|_| bad("is none"))?;
        let port = match (parsed.port_u16(), authority.ends_with(']') || !authority.contains(':')) {
            (Some(port), _) if port > 0 => port,
            (None, true) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            _ => return Err(bad("has no sound port")),
        };
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("names no host"));
        }
        let shown = if tls { format!("https://{authority}{prefix}") } else { format!("{authority}{prefix}") };
        let prefix = prefix.trim_end_matches('/').to_owned();
        Ok(Self { address: EndpointAddress::Tcp { host, port, tls }, prefix, shown: shown.into() })
    }

    /// The authority of the URI, and so the `Host` header.
    pub(super) fn authority(&self) -> String {
        match &self.address {
            EndpointAddress::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            EndpointAddress::Tcp { host, port, .. } => format!("{host}:{port}"),
            EndpointAddress::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Returns whether the agent runs on this machine, so that frequent
    /// requests are cheap.
    pub(super) fn is_local(&self) -> bool {
        match &self.address {
            EndpointAddress::Unix(_) => true,
            EndpointAddress::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: bool) -> EndpointAddress {
        EndpointAddress::Tcp { host: host.to_owned(), port, tls }
    }

    #[test]
    fn every_form_of_the_command_line_is_understood() {
        let cases = [
            ("127.0.0.1:8500", false, tcp("127.0.0.1", 8500, false)),
            ("127.0.0.1:8501", true, tcp("127.0.0.1", 8501, true)),
            ("http://consul:8500", true, tcp("consul", 8500, true)),
            ("https://consul", false, tcp("consul", 443, true)),
            ("http://consul/", false, tcp("consul", 80, false)),
            ("[::1]:8500", false, tcp("::1", 8500, false)),
            ("[::1]", false, tcp("::1", 80, false)),
            ("unix:///run/consul.sock", false, EndpointAddress::Unix("/run/consul.sock".into())),
        ];
        for (text, tls, address) in cases {
            assert_eq!(Endpoint::parse(text, tls).unwrap().address, address, "{text}");
        }
        assert_eq!(Endpoint::parse("https://proxy/consul/", false).unwrap().prefix, "/consul");
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_with_the_forms_that_can() {
        for bad in [
            "",
            "host:",
            "host:0",
            "host:70000",
            "ftp://x",
            "unix://rel",
            "a b:1",
            "u:p@h:1",
            "h:1?x=1",
            ":8500",
        ] {
            let error = Endpoint::parse(bad, false).unwrap_err().to_string();
            assert!(error.contains("unix:///path (CONSUL_HTTP_ADDR)"), "{bad}: {error}");
        }
        for secret in [
            "u:hunter2@h:1",
            "http://u:hunter2@h:1",
            "ftp://u:hunter2@h",
            "h:1?token=hunter2",
            "unix://u:hunter2@",
        ] {
            let error = Endpoint::parse(secret, false).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.contains("CONSUL_HTTP_ADDR"), "{error}");
        }
    }

    #[test]
    fn a_local_agent_is_recognised() {
        for (text, local) in
            [("localhost:1", true), ("127.0.0.2:1", true), ("[::1]:1", true), ("10.0.0.1:1", false)]
        {
            assert_eq!(Endpoint::parse(text, false).unwrap().is_local(), local, "{text}");
        }
    }
}
