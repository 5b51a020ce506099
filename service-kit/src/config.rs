//! The settings of a service.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use registry_client::Advertise;
use secrecy::{ExposeSecret, SecretString};

use crate::{database::DatabaseUrl, private, telemetry::LogFilter};

mod auth;
mod check;
mod print;

pub use auth::{AuthMode, secret_setting};
pub use check::refuse_control_characters;

/// The settings that all services have: a flag wins over the environment, which
/// wins over the default. The mesh reads its own, `CONSUL_*` and `CONSORT_*`.
#[derive(Args, Clone, Debug)]
pub struct ServiceConfig {
    /// The address to listen on; port 0 selects a free one
    #[arg(long, env = "LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// The address to register, HOST or HOST:PORT [default: the one listened on, or the one that other
    /// machines reach]
    #[arg(long, env = "ADVERTISE", value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,

    /// The database, `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`; all replicas of a service share
    /// it [default: a SQLite file in the state directory]
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,

    /// The NATS server that transports events, `nats://USER:PASSWORD@HOST:PORT`; all services share it
    /// [default: none, the mesh itself transports them]
    #[arg(long, env = "NATS_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub nats_url: Option<SecretString>,

    /// The directory for data that outlives a restart
    #[arg(long, env = "CONSORT_STATE_DIR", value_name = "DIR", default_value = ".consort")]
    pub state_dir: PathBuf,

    /// Authentication of callers; `off` is refused on an address that other machines reach
    #[arg(long, env = "AUTH", value_name = "on|off", value_enum, default_value_t = AuthMode::On, hide_possible_values = true)]
    pub auth: AuthMode,

    /// The key by which the shop's services authenticate to each other, the same for all: 32 random bytes in
    /// base64, as `openssl rand -base64 32` makes them; required unless `auth` is off
    #[arg(long, env = "AUTH_SERVICE_KEY", value_name = "KEY", hide_env_values = true, value_parser = secret)]
    pub auth_service_key: Option<SecretString>,

    /// A file with that key
    #[arg(long, env = "AUTH_SERVICE_KEY_FILE", value_name = "FILE")]
    pub auth_service_key_file: Option<PathBuf>,

    /// The log filter: `info`, or `warn,cart_service=debug`
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info", value_parser = LogFilter::parse)]
    pub log: LogFilter,

    /// Prints every setting with its value and source, and exits
    #[arg(long)]
    pub print_config: bool,
}

/// Accepts any text as a secret, as a parser for clap: clap would print a value
/// that it rejects, and a URL may hold a password.
///
/// # Errors
/// Never.
pub fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(text.into())
}

impl ServiceConfig {
    /// The database of `service`, by default a file in the state directory,
    /// whose folder is created.
    ///
    /// # Errors
    /// When `DATABASE_URL` is invalid, or the folder cannot be created.
    pub fn database(&self, service: &str) -> anyhow::Result<DatabaseUrl> {
        if let Some(url) = self.database_url.as_ref().filter(|url| !url.expose_secret().is_empty()) {
            return Ok(url.expose_secret().parse()?);
        }
        let path = self.default_file(service);
        if let Some(folder) = path.parent() {
            private::make_folder(folder).map_err(|why| {
                anyhow!(
                    "could not create the folder {}: {why}; let this user write there, or change CONSORT_STATE_DIR \
                     or DATABASE_URL",
                    folder.display()
                )
            })?;
        }
        Ok(DatabaseUrl::Sqlite(path))
    }

    /// Checks, where callers are authenticated, that no other user of this machine
    /// can read the data, which may contain the signing keys. A folder that
    /// `DATABASE_URL` names belongs to the operator, and may have other readers.
    ///
    /// # Errors
    /// When others can read the data, with the command that fixes it.
    pub(crate) fn check_privacy(&self, service: &str, database: &DatabaseUrl) -> anyhow::Result<()> {
        let (AuthMode::On, DatabaseUrl::Sqlite(file)) = (self.auth, database) else { return Ok(()) };
        let own = self.default_file(service);
        let folder = own.parent().filter(|_| *file == own);
        private::check(folder, file).map_err(anyhow::Error::msg)
    }

    /// The NATS server; `None` unless set.
    #[must_use]
    pub fn nats_url(&self) -> Option<&SecretString> {
        self.nats_url.as_ref().filter(|url| !url.expose_secret().is_empty())
    }

    /// The address to register; `None` unless set.
    ///
    /// # Errors
    /// When it is invalid.
    pub fn advertised(&self) -> anyhow::Result<Option<Advertise>> {
        let Some(text) = self.advertise.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let read = text.parse().with_context(|| format!("ADVERTISE `{text}` is not HOST or HOST:PORT"))?;
        Ok(Some(read))
    }

    fn default_file(&self, service: &str) -> PathBuf {
        let short = service.strip_suffix("-service").unwrap_or(service);
        self.state_dir.join("data").join(format!("{short}.db"))
    }
}
