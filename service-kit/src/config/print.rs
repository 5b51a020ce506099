//! `--print-config`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Arg, ArgMatches, Command, parser::ValueSource};
use secrecy::{ExposeSecret, SecretString};

use super::ServiceConfig;
use crate::database::masked;

/// A setting that the mesh reads from the environment itself.
struct Variable {
    name: &'static str,
    /// The default, or a description of it.
    default: &'static str,
    secret: bool,
}

impl Variable {
    /// True when `value` is secret, or may contain a secret: an address with a
    /// user or parameters.
    fn hides(&self, value: &str) -> bool {
        self.secret || self.name == "CONSUL_HTTP_ADDR" && value.contains(['@', '?', '#'])
    }
}

const fn variable(name: &'static str, default: &'static str) -> Variable {
    Variable { name, default, secret: false }
}

const fn secret(name: &'static str) -> Variable {
    Variable { name, default: "(none)", secret: true }
}

/// The settings of `registry-client`, whose documentation describes them.
const MESH: [Variable; 33] = [
    variable("CONSUL_HTTP_ADDR", "127.0.0.1:8500"),
    secret("CONSUL_HTTP_TOKEN"),
    variable("CONSUL_HTTP_TOKEN_FILE", "(none)"),
    secret("CONSUL_HTTP_AUTH"),
    variable("CONSUL_HTTP_SSL", "false"),
    variable("CONSUL_HTTP_SSL_VERIFY", "true"),
    variable("CONSUL_CACERT", "(none)"),
    variable("CONSUL_CAPATH", "(none)"),
    variable("CONSUL_CLIENT_CERT", "(none)"),
    variable("CONSUL_CLIENT_KEY", "(none)"),
    variable("CONSUL_TLS_SERVER_NAME", "(none)"),
    variable("CONSUL_NAMESPACE", "(none)"),
    variable("CONSUL_PARTITION", "(none)"),
    variable("CONSORT_DEADLINE", "15s"),
    variable("CONSORT_BALANCER", "least_request"),
    variable("CONSORT_KEEPALIVE_TIME", "10s"),
    variable("CONSORT_KEEPALIVE_TIMEOUT", "5s"),
    variable("CONSORT_KEEPALIVE_MIN", "(registered)"),
    variable("CONSORT_CONNECT_TIMEOUT", "5s"),
    variable("CONSORT_SERVICE_CONFIG", "(none)"),
    variable("CONSORT_WEIGHT", "1"),
    variable("CONSORT_REGION", "(none)"),
    variable("CONSORT_ZONE", "(none)"),
    variable("CONSORT_SUCCESS_BEFORE_PASSING", "1"),
    variable("CONSORT_FAILURES_BEFORE_CRITICAL", "1"),
    variable("CONSORT_DRAIN", "2s"),
    variable("CONSORT_ADMISSION", "on"),
    variable("CONSORT_MAX_CONCURRENCY", "1000"),
    variable("CONSORT_GZIP", "on"),
    variable("CONSORT_MAX_CONNECTION_AGE", "infinite"),
    variable("CONSORT_MAX_CONNECTION_AGE_GRACE", "10m"),
    variable("CONSORT_ADMIN", "(none)"),
    variable("CONSORT_ADMIN_ANYWHERE", "off"),
];

impl ServiceConfig {
    /// Writes every setting with its value and source, a line each, without passwords
    /// and tokens. `options` has the options of the service itself.
    pub(crate) fn print(
        &self,
        service: &str,
        options: &Command,
        matches: &ArgMatches,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let database = match &self.database_url {
            Some(url) if !url.expose_secret().is_empty() => shown(url),
            _ => format!("sqlite:{}", self.default_file(service).display()),
        };
        let path =
            |path: &Option<PathBuf>| or_none(path.as_ref().map(|path| path.display().to_string()).as_deref());
        let own = [
            ("LISTEN", "listen", self.listen.to_string()),
            ("ADVERTISE", "advertise", or_none(self.advertise.as_deref())),
            ("DATABASE_URL", "database_url", database),
            ("NATS_URL", "nats_url", self.nats_url().map_or_else(|| "(none)".to_owned(), shown)),
            ("CONSORT_STATE_DIR", "state_dir", self.state_dir.display().to_string()),
            ("AUTH", "auth", self.auth.as_str().to_owned()),
            ("AUTH_SERVICE_KEY", "auth_service_key", or_masked(self.auth_service_key.as_ref())),
            ("AUTH_SERVICE_KEY_FILE", "auth_service_key_file", path(&self.auth_service_key_file)),
            ("RUST_LOG", "log", self.log.as_str().to_owned()),
        ];
        for (name, id, value) in own {
            writeln!(out, "{name:<26} {value:<40} {}", source(matches, id))?;
        }
        for option in options.get_arguments() {
            let Some(name) = option.get_env() else { continue };
            let (name, id) = (name.to_string_lossy(), option.get_id().as_str());
            writeln!(out, "{name:<26} {:<40} {}", option_value(option, matches), source(matches, id))?;
        }
        for variable in &MESH {
            let set = from_environment(variable.name);
            let from = if set.is_some() { "environment" } else { "default" };
            let value = set.map_or_else(
                || variable.default.to_owned(),
                |value| if variable.hides(&value) { "***".to_owned() } else { on_one_line(&value) },
            );
            writeln!(out, "{:<26} {value:<40} {from}", variable.name)?;
        }
        Ok(())
    }
}

/// The value of an option that one service alone has.
fn option_value(option: &Arg, matches: &ArgMatches) -> String {
    let values = matches.try_get_raw(option.get_id().as_str()).ok().flatten();
    let value = values.and_then(|mut values| values.next()).map(|value| value.to_string_lossy());
    match value.filter(|value| !value.is_empty()) {
        Some(_) if option.is_hide_env_values_set() => "***".to_owned(),
        value => or_none(value.as_deref()),
    }
}

/// Joins the lines of a value, such as JSON.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shown(url: &SecretString) -> String {
    masked(url.expose_secret())
}

fn or_masked(secret: Option<&SecretString>) -> String {
    or_none(secret.map(|secret| if secret.expose_secret().is_empty() { "" } else { "***" }))
}

fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("(none)").to_owned()
}

fn source(matches: &ArgMatches, id: &str) -> &'static str {
    match matches.value_source(id) {
        Some(ValueSource::CommandLine) => "flag",
        Some(ValueSource::EnvVariable) => "environment",
        _ => "default",
    }
}

/// A variable that is set; one that is empty counts as unset.
#[allow(clippy::disallowed_methods, reason = "it shows the settings that the mesh's `from_env` will read")]
fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
