//! Authenticated callers for tests.

use std::time::{Duration, SystemTime};

use registry_client::Channel;
use secrecy::SecretString;

use crate::{
    auth::{Auth, Claims, LEEWAY, Outgoing, Roles, Seed, Signer},
    value::CustomerId,
};

/// An issuer of tokens, in place of user-service, and of services that accept them.
#[derive(Debug)]
pub struct Callers {
    users: Signer,
    services: Seed,
}

impl Callers {
    /// New callers with keys of their own.
    ///
    /// # Panics
    /// When the operating system returns no random numbers.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "every one differs")]
    pub fn new() -> Self {
        let users = Signer::generate().unwrap_or_else(|why| panic!("{why}"));
        Self { users, services: Seed::generate().unwrap_or_else(|why| panic!("{why}")) }
    }

    /// The signer of people's tokens.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.users
    }

    /// The seed that services share.
    #[must_use]
    pub fn seed(&self) -> &Seed {
        &self.services
    }

    /// An [`Auth`] of `service` that fetches the keys of user-service.
    ///
    /// # Panics
    /// When that is no service name.
    #[must_use]
    pub fn auth_over_mesh(&self, service: &'static str) -> Auth {
        let seed = Seed::of(self.services.expose()).unwrap_or_else(|why| panic!("{why}"));
        Auth::on(service, seed).unwrap_or_else(|why| panic!("{why:#}"))
    }

    /// An [`Auth`] of `service` that has the keys already.
    ///
    /// # Panics
    /// When that is no service name.
    #[must_use]
    pub fn auth(&self, service: &'static str) -> Auth {
        let auth = self.auth_over_mesh(service);
        auth.publish([self.users.public().clone()]);
        auth
    }

    /// A token of the customer `id` with these roles.
    ///
    /// # Panics
    /// When `id` is invalid.
    #[must_use]
    pub fn token(&self, id: &str, roles: impl Into<Roles>) -> SecretString {
        let id = CustomerId::parse(id).unwrap_or_else(|why| panic!("{why}"));
        self.users.sign(&Claims::new(id, roles, Duration::from_secs(900))).into()
    }

    /// A channel for calls of the customer `id` with these roles.
    ///
    /// # Panics
    /// When `id` is invalid.
    #[must_use]
    pub fn client(&self, channel: Channel, id: &str, roles: impl Into<Roles>) -> Outgoing {
        with_token(channel, &self.token(id, roles))
    }

    /// Like [`client`](Self::client), with an expired token that is
    /// accepted for about `left` more, because of the leeway for clocks.
    ///
    /// # Panics
    /// When `id` is invalid.
    #[must_use]
    pub fn client_for(
        &self,
        left: Duration,
        channel: Channel,
        id: &str,
        roles: impl Into<Roles>,
    ) -> Outgoing {
        let id = CustomerId::parse(id).unwrap_or_else(|why| panic!("{why}"));
        let (lifetime, now) = (Duration::from_secs(900), SystemTime::now());
        let claims = Claims::new(id, roles, lifetime).issued(now + left - LEEWAY - lifetime);
        with_token(channel, &self.users.sign(&claims).into())
    }
}

fn with_token(channel: Channel, token: &SecretString) -> Outgoing {
    Outgoing::with_token(channel, token).unwrap_or_else(|why| panic!("{why}"))
}
