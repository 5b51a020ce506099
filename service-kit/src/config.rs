//! What a service is told from outside.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use registry_client::Advertise;
use secrecy::{ExposeSecret, SecretString};

use crate::{database::DatabaseUrl, private, telemetry::LogFilter};

mod admin;
mod auth;
mod check;
mod print;

pub use admin::{AdminSettings, FirstAdmin};
pub use auth::Asked;
pub use check::refuse_control_characters;
pub use print::print;

/// The settings of a service: a flag wins over the environment, which wins
/// over the default. Those of the mesh, `CONSUL_*` and `CONSORT_*`, are read by
/// the mesh itself.
#[derive(Args, Clone, Debug)]
pub struct ServiceConfig {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = "LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// Under which address to register, HOST or HOST:PORT [default: the one listened on, or the one that
    /// other machines reach]
    #[arg(long, env = "ADVERTISE", value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,

    /// Where the data is, `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`; all replicas of a service
    /// share it [default: a SQLite file in the state directory]
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,

    /// The NATS server that brings events, `nats://USER:PASSWORD@HOST:PORT`; all services share it [default:
    /// none, the mesh itself brings them]
    #[arg(long, env = "NATS_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub nats_url: Option<SecretString>,

    /// The directory for what outlives a restart.
    #[arg(long, env = "CONSORT_STATE_DIR", value_name = "DIR", default_value = ".consort")]
    pub state_dir: PathBuf,

    /// Whether callers are asked who they are; `off` is refused where others reach the service
    #[arg(long, env = "AUTH", value_name = "on|off", value_enum, default_value_t = Asked::On, hide_possible_values = true)]
    pub auth: Asked,

    /// The key that the shop's services know each other by, the same for all: 32 random bytes in base64, as
    /// `openssl rand -base64 32` makes them; needed unless `auth` is off
    #[arg(long, env = "AUTH_SERVICE_KEY", value_name = "KEY", hide_env_values = true, value_parser = secret)]
    pub auth_service_key: Option<SecretString>,

    /// A file that holds it
    #[arg(long, env = "AUTH_SERVICE_KEY_FILE", value_name = "FILE")]
    pub auth_service_key_file: Option<PathBuf>,

    /// Under which keys user-service encrypts the keys that sign tokens, a list: the first encrypts, all decrypt,
    /// `none` stands for not encrypted; each is made as `auth-service-key` is [default: none]
    #[arg(long, env = "AUTH_ENCRYPTION_KEYS", value_name = "KEYS", hide_env_values = true, value_parser = secret)]
    pub auth_encryption_keys: Option<SecretString>,

    /// A file that holds them
    #[arg(long, env = "AUTH_ENCRYPTION_KEYS_FILE", value_name = "FILE")]
    pub auth_encryption_keys_file: Option<PathBuf>,

    /// Which log lines are written: `info`, or `warn,cart_service=debug`.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info", value_parser = LogFilter::parse)]
    pub log: LogFilter,

    /// Who is admin from the start.
    #[command(flatten)]
    pub admin: AdminSettings,

    /// How payments fail on purpose, for payment-service: `decline=0.1,lost=0.3,slow=0.2:2s,unavailable=0.1`,
    /// or `metadata` for those that callers ask for; nothing fails unless it is set
    #[arg(long, env = "PAYMENT_FAULTS", value_name = "FAULTS", default_value = "")]
    pub payment_faults: String,

    /// How the carrier that order-service ships with fails, a list of `NAME=SHARE`:
    /// `refuse=0.1,unavailable=0.1,lost=0.1,slow=0.2:2s` [default: not at all]
    #[arg(long, env = "CARRIER_FAULTS", value_name = "LIST", default_value = "", hide_default_value = true)]
    pub carrier_faults: String,

    /// Prints every setting, its value and where it came from, and exits.
    #[arg(long)]
    pub print_config: bool,
}

// Takes anything: what clap refuses it prints, and a URL may hold a password.
fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(text.into())
}

impl ServiceConfig {
    /// The database of `service`, by default a file in the state directory,
    /// whose folder is made.
    ///
    /// # Errors
    /// When `DATABASE_URL` names none, or the folder cannot be made.
    pub fn database(&self, service: &str) -> anyhow::Result<DatabaseUrl> {
        if let Some(url) = self.database_url.as_ref().filter(|url| !url.expose_secret().is_empty()) {
            return Ok(url.expose_secret().parse()?);
        }
        let path = self.default_file(service);
        if let Some(folder) = path.parent() {
            private::make_folder(folder).map_err(|why| {
                anyhow!(
                    "could not make the folder {}: {why}; let this user write there, or change CONSORT_STATE_DIR \
                     or DATABASE_URL",
                    folder.display()
                )
            })?;
        }
        Ok(DatabaseUrl::Sqlite(path))
    }

    /// That no other user of this machine can read the data, where callers are
    /// authenticated: the keys by which they are may be in it. A folder that
    /// `DATABASE_URL` names is the operator's, and may have others in it.
    ///
    /// # Errors
    /// When others can; says how to end that.
    pub(crate) fn check_privacy(&self, service: &str, database: &DatabaseUrl) -> anyhow::Result<()> {
        let (Asked::On, DatabaseUrl::Sqlite(file)) = (self.auth, database) else { return Ok(()) };
        let own = self.default_file(service);
        let folder = own.parent().filter(|_| *file == own);
        private::check(folder, file).map_err(anyhow::Error::msg)
    }

    /// The NATS server; `None` unless set.
    #[must_use]
    pub fn nats_url(&self) -> Option<&SecretString> {
        self.nats_url.as_ref().filter(|url| !url.expose_secret().is_empty())
    }

    /// Under which address to register; `None` unless set.
    ///
    /// # Errors
    /// When it is no address.
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
