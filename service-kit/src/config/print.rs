//! `--print-config`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{ArgMatches, parser::ValueSource};
use secrecy::{ExposeSecret, SecretString};

use super::ServiceConfig;
use crate::database::masked;

/// A setting that the mesh reads from the environment itself.
struct Variable {
    name: &'static str,
    /// What holds while it is unset, in words where it is not a value.
    default: &'static str,
    secret: bool,
}

impl Variable {
    /// Whether `value` is secret, or may hold what is: an address with a user
    /// or parameters.
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

/// What `registry-client` reads; its documentation says what each means.
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

/// Writes every setting of `service`, its value and where it came from, a line
/// each. Passwords and tokens are not shown. `matches` is what `config` was
/// read from.
///
/// # Errors
/// When `out` fails.
pub fn print(
    service: &str,
    config: &ServiceConfig,
    matches: &ArgMatches,
    out: &mut impl Write,
) -> io::Result<()> {
    let database = match &config.database_url {
        Some(url) if !url.expose_secret().is_empty() => shown(url),
        _ => format!("sqlite:{}", config.default_file(service).display()),
    };
    let path =
        |path: &Option<PathBuf>| or_none(path.as_ref().map(|path| path.display().to_string()).as_deref());
    let own = [
        ("LISTEN", "listen", config.listen.to_string()),
        ("ADVERTISE", "advertise", or_none(config.advertise.as_deref())),
        ("DATABASE_URL", "database_url", database),
        ("NATS_URL", "nats_url", config.nats_url().map_or_else(|| "(none)".to_owned(), shown)),
        ("CONSORT_STATE_DIR", "state_dir", config.state_dir.display().to_string()),
        ("AUTH", "auth", config.auth.as_str().to_owned()),
        ("AUTH_SERVICE_KEY", "auth_service_key", or_masked(config.auth_service_key.as_ref())),
        ("AUTH_SERVICE_KEY_FILE", "auth_service_key_file", path(&config.auth_service_key_file)),
        ("AUTH_ENCRYPTION_KEYS", "auth_encryption_keys", or_masked(config.auth_encryption_keys.as_ref())),
        ("AUTH_ENCRYPTION_KEYS_FILE", "auth_encryption_keys_file", path(&config.auth_encryption_keys_file)),
        ("ADMIN_EMAIL", "admin_email", or_none(config.admin.email.as_deref())),
        ("ADMIN_PASSWORD", "admin_password", or_masked(config.admin.password.as_ref())),
        ("ADMIN_PASSWORD_FILE", "admin_password_file", path(&config.admin.password_file)),
        ("PAYMENT_FAULTS", "payment_faults", or_none(Some(&config.payment_faults))),
        ("RUST_LOG", "log", config.log.as_str().to_owned()),
        ("CARRIER_FAULTS", "carrier_faults", or_none(Some(&config.carrier_faults))),
    ];
    for (name, id, value) in own {
        writeln!(out, "{name:<26} {value:<40} {}", source(matches, id))?;
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

/// JSON may come in many lines.
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
#[allow(clippy::disallowed_methods, reason = "it shows what the mesh's `from_env` will read")]
fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
