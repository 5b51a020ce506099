//! The settings of a client, in code or by the variables of Consul's own
//! command line.

use std::path::PathBuf;

use secrecy::SecretString;

use super::{Client, Error, endpoint::Endpoint, http::Transport, tls::Tls, token::Token};
use crate::config::refuse_control_characters;

/// The largest body that is accepted from an agent, in bytes, unless set.
const MAX_BODY: usize = 8 << 20;

/// The variables of the environment.
const VARIABLES: [&str; 13] = [
    "CONSUL_HTTP_ADDR",
    "CONSUL_HTTP_TOKEN",
    "CONSUL_HTTP_TOKEN_FILE",
    "CONSUL_HTTP_AUTH",
    "CONSUL_HTTP_SSL",
    "CONSUL_HTTP_SSL_VERIFY",
    "CONSUL_CACERT",
    "CONSUL_CAPATH",
    "CONSUL_CLIENT_CERT",
    "CONSUL_CLIENT_KEY",
    "CONSUL_TLS_SERVER_NAME",
    "CONSUL_NAMESPACE",
    "CONSUL_PARTITION",
];

/// The settings of a [`Client`], created by [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    addr: String,
    token: Option<SecretString>,
    token_file: Option<PathBuf>,
    auth: Option<SecretString>,
    namespace: Option<String>,
    partition: Option<String>,
    ssl: bool,
    tls: Tls,
    max_body: usize,
}

impl ClientBuilder {
    pub(super) fn new(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            token: None,
            token_file: None,
            auth: None,
            namespace: None,
            partition: None,
            ssl: false,
            tls: Tls::default(),
            max_body: MAX_BODY,
        }
    }

    /// Reads the variables through `get`, which tests replace. As with
    /// Consul's own command line an empty variable counts as unset.
    pub(super) fn read(get: impl Fn(&'static str) -> Option<String>) -> Result<Self, Error> {
        for name in VARIABLES {
            let value = get(name).unwrap_or_default();
            refuse_control_characters(name, &value).map_err(|why| Error::Config(why.to_string()))?;
        }
        let get = |name| get(name).filter(|value| !value.is_empty());
        let mut it = Self::new(&get("CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".to_owned()));
        it.token = get("CONSUL_HTTP_TOKEN").map(SecretString::from);
        it.token_file = get("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from);
        it.auth = get("CONSUL_HTTP_AUTH").map(SecretString::from);
        it.namespace = get("CONSUL_NAMESPACE");
        it.partition = get("CONSUL_PARTITION");
        it.ssl = flag("CONSUL_HTTP_SSL", get("CONSUL_HTTP_SSL"))?.unwrap_or(false);
        it.tls.skip_verify = !flag("CONSUL_HTTP_SSL_VERIFY", get("CONSUL_HTTP_SSL_VERIFY"))?.unwrap_or(true);
        it.tls.ca_file = get("CONSUL_CACERT").map(PathBuf::from);
        it.tls.ca_dir = get("CONSUL_CAPATH").map(PathBuf::from);
        it.tls.server_name = get("CONSUL_TLS_SERVER_NAME");
        it.tls.identity = match (get("CONSUL_CLIENT_CERT"), get("CONSUL_CLIENT_KEY")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => return Err(alone("CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY")),
            (None, Some(_)) => return Err(alone("CONSUL_CLIENT_KEY", "CONSUL_CLIENT_CERT")),
        };
        Ok(it)
    }

    /// The settings of the environment; see [`Client::from_env`].
    ///
    /// # Errors
    /// [`Error::Config`] when a variable is invalid.
    #[allow(clippy::disallowed_methods, reason = "this is the constructor that reads the environment")]
    pub fn from_env() -> Result<Self, Error> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Sets the agent: `host:port`, `http://…`, `https://…` or `unix:///path`.
    pub fn addr(mut self, addr: &str) -> Self {
        addr.clone_into(&mut self.addr);
        self
    }

    /// Sets the ACL token; none unless set (`CONSUL_HTTP_TOKEN`).
    pub fn token(mut self, token: impl Into<SecretString>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets a file with the ACL token, read when the client is built and again
    /// whenever Consul denies a request. It takes precedence over
    /// [`token`](Self::token) (`CONSUL_HTTP_TOKEN_FILE`).
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// Sets `user:password` for HTTP basic authentication, for a proxy in front
    /// of the agent (`CONSUL_HTTP_AUTH`).
    pub fn basic_auth(mut self, user_and_password: impl Into<SecretString>) -> Self {
        self.auth = Some(user_and_password.into());
        self
    }

    /// Sets the Enterprise namespace. With a community agent, every request
    /// fails unless it is `default` (`CONSUL_NAMESPACE`).
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Sets the Enterprise partition, like [`namespace`](Self::namespace)
    /// (`CONSUL_PARTITION`).
    pub fn partition(mut self, name: impl Into<String>) -> Self {
        self.partition = Some(name.into());
        self
    }

    /// Sets a PEM file with the certificate authorities for the agent; the
    /// system's unless set (`CONSUL_CACERT`).
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(file.into());
        self
    }

    /// Sets a directory of such files (`CONSUL_CAPATH`).
    pub fn ca_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.tls.ca_dir = Some(dir.into());
        self
    }

    /// Sets the PEM files of the client certificate and key
    /// (`CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY`).
    pub fn client_identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some((cert.into(), key.into()));
        self
    }

    /// Sets the name that the agent's certificate must have; the host of the
    /// address unless set (`CONSUL_TLS_SERVER_NAME`).
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Disables the verification of the agent's certificate; only for
    /// experiments (`CONSUL_HTTP_SSL_VERIFY=false`).
    pub fn skip_verify(mut self, skip: bool) -> Self {
        self.tls.skip_verify = skip;
        self
    }

    /// Sets the largest accepted response body in bytes; 8 MiB unless set,
    /// which is about 12,000 instances of one service.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Builds the client. It connects with its first request.
    ///
    /// # Errors
    /// [`Error::Config`] when the address is invalid, or a file cannot be read
    /// or has the wrong content.
    pub fn build(self) -> Result<Client, Error> {
        let endpoint = Endpoint::parse(&self.addr, self.ssl)?;
        let token = Token::new(self.token, self.token_file)?;
        let tls = self.tls.connector(&endpoint)?;
        let scope = super::scope::Scope::new(self.namespace, self.partition);
        let transport = Transport::new(endpoint, tls, token, self.auth.as_ref(), self.max_body)?;
        Ok(Client::of(transport, scope))
    }
}

fn alone(set: &str, missing: &str) -> Error {
    Error::Config(format!("{set} is set and {missing} is not: set both, or none"))
}

/// Parses a boolean as Go does.
fn flag(name: &str, value: Option<String>) -> Result<Option<bool>, Error> {
    let Some(value) = value else { return Ok(None) };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(Error::Config(format!("{name}=`{value}` is neither true nor false: write one of them"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &'static [(&'static str, &'static str)]) -> Result<Client, Error> {
        let get = |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        ClientBuilder::read(get)?.build()
    }

    #[test]
    fn nothing_set_is_the_agent_on_this_machine() {
        assert_eq!(read(&[("CONSUL_HTTP_TOKEN", "")]).unwrap().addr(), "127.0.0.1:8500");
    }

    #[test]
    fn a_setting_that_means_nothing_is_named_with_its_repair() {
        let words = |pairs| read(pairs).unwrap_err().to_string();
        assert!(words(&[("CONSUL_HTTP_SSL", "maybe")]).contains("CONSUL_HTTP_SSL=`maybe`"));
        let unseen = words(&[("CONSUL_HTTP_TOKEN", "hunter2\r")]);
        assert!(unseen.contains("CONSUL_HTTP_TOKEN holds") && !unseen.contains("hunter2"), "{unseen}");
        assert!(words(&[("CONSUL_CLIENT_CERT", "/c")]).contains("CONSUL_CLIENT_KEY"));
        assert!(words(&[("CONSUL_HTTP_TOKEN_FILE", "/does/not/exist")]).contains("CONSUL_HTTP_TOKEN_FILE"));
        let missing_ca = words(&[("CONSUL_HTTP_SSL", "1"), ("CONSUL_CACERT", "/does/not/exist")]);
        assert!(missing_ca.contains("/does/not/exist"), "{missing_ca}");
    }

    #[test]
    fn no_secret_shows_when_printed() {
        let builder = ClientBuilder::new("127.0.0.1:8500").token("canary-token".to_owned());
        let builder = builder.basic_auth("user:canary-word".to_owned());
        let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
