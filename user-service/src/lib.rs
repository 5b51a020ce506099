//! user-service: accounts, logins and tokens.
//!
//! A handler in [`Users`] parses a request into the values of [`domain`], and calls
//! accounts or logins. [`hasher`] hashes passwords; [`login_limit`] limits failed
//! logins; [`keys`] rotates the signing keys of tokens, which [`encryption`]
//! encrypts; [`store`] stores all of it; [`Notifier`] notifies customers of their
//! orders.

use anyhow::Context;
use clap::Args;
use mesh_proto::shop::user::v1::user_service_server::UserServiceServer;
use service_kit::{
    database::{Migration, Migrations},
    events::{Events, INBOX, OUTBOX, Outbox},
    lease::LEASES,
    service::{Service, ServiceBuilder, ServiceContext},
};
use tracing::warn;

mod access;
mod accounts;
mod admin;
mod cleanup;
mod clock;
pub mod domain;
pub mod encryption;
mod error;
pub mod hasher;
mod key_schedule;
pub mod keys;
mod login;
pub mod login_limit;
mod notify;
mod options;
mod refresh;
mod request;
mod service;
pub mod store;

pub use clock::Clock;
pub use error::Error;
pub use notify::Notifier;
pub use options::{AdminOptions, EncryptionOptions, FirstAdmin};
pub use refresh::RefreshToken;
pub use service::Users;

use accounts::Accounts;
use hasher::Hasher;
use keys::{KeySchedule, Keyring};
use store::Store;

/// The name under which it registers.
pub const NAME: &str = "user-service";

/// The subscribers to the events of deleted accounts.
pub const SUBSCRIBERS: &[&str] = &["cart-service"];

/// The service, with its options.
#[derive(Args, Clone, Debug, Default)]
pub struct UserService {
    /// The keys that encrypt the signing keys in the database.
    #[command(flatten)]
    pub encryption: EncryptionOptions,
    /// The first admin.
    #[command(flatten)]
    pub admin: AdminOptions,
}

impl Service for UserService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[
            Migration { name: "users", sql: include_str!("../migrations/sqlite/0001_users.sql") },
            OUTBOX.sqlite[0],
            LEASES.sqlite[0],
            INBOX.sqlite[0],
            Migration { name: "revocations", sql: include_str!("../migrations/sqlite/0002_revocations.sql") },
            Migration {
                name: "old notifications",
                sql: include_str!("../migrations/sqlite/0003_old_notifications.sql"),
            },
        ],
        postgres: &[
            Migration { name: "users", sql: include_str!("../migrations/postgres/0001_users.sql") },
            OUTBOX.postgres[0],
            LEASES.postgres[0],
            INBOX.postgres[0],
            Migration {
                name: "revocations",
                sql: include_str!("../migrations/postgres/0002_revocations.sql"),
            },
            Migration {
                name: "old notifications",
                sql: include_str!("../migrations/postgres/0003_old_notifications.sql"),
            },
        ],
    };

    fn check(&self) -> anyhow::Result<()> {
        self.encryption.keys()?;
        self.admin.first().map(drop)
    }

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let outbox = Outbox::of(context, NAME, SUBSCRIBERS);
        let encryption_keys = self.encryption.keys()?;
        if context.auth.is_on() && !encryption_keys.encrypts() {
            warn!(
                "the signing keys of tokens are not encrypted in the database: every reader of it can forge tokens; \
                 set AUTH_ENCRYPTION_KEYS to a key that `openssl rand -base64 32` makes"
            );
        }
        let store = Store::new(context.database.clone(), outbox).encrypted_under(encryption_keys);
        let clock = Clock::system();
        let keys =
            Keyring::open(store.clone(), clock.clone(), KeySchedule::default(), context.auth.clone()).await;
        let keys = keys.context("could not prepare the signing keys of tokens")?;
        let hasher = Hasher::new();
        if let Some(admin) = &self.admin.first()? {
            let accounts = Accounts { store: store.clone(), hasher: hasher.clone(), clock: clock.clone() };
            admin::ensure(&accounts, admin).await?;
        }
        let users = Users::new(store.clone(), hasher, keys.clone(), clock.clone());
        let events = Events::of(context, NAME).send(outbox).receive(&["order-service"], Notifier);
        let builder = builder.serve(UserServiceServer::new(users));
        Ok(events
            .add_to(builder)
            .background_task(keys.run_refresh())
            .background_task(cleanup::run(store, clock)))
    }
}
