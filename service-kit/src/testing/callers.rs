//! Callers of services that ask who they are.

use std::time::Duration;

use registry_client::Channel;
use secrecy::SecretString;

use crate::{
    auth::{Auth, Claims, Outgoing, Roles, Seed, Signer},
    value::CustomerId,
};

/// Makes tokens, in place of user-service, and services that believe them.
#[derive(Debug)]
pub struct Callers {
    users: Signer,
    services: Seed,
}

impl Callers {
    /// With keys of their own.
    ///
    /// # Panics
    /// When the system gives no random numbers.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "every one differs")]
    pub fn new() -> Self {
        let users = Signer::generate().unwrap_or_else(|why| panic!("{why}"));
        Self { users, services: Seed::generate().unwrap_or_else(|why| panic!("{why}")) }
    }

    /// What makes and signs the tokens of people.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.users
    }

    /// What services share.
    #[must_use]
    pub fn seed(&self) -> &Seed {
        &self.services
    }

    /// An [`Auth`] of `service` that asks user-service for keys.
    ///
    /// # Panics
    /// When that is no service's name.
    #[must_use]
    pub fn auth_over_mesh(&self, service: &'static str) -> Auth {
        let seed = Seed::of(self.services.expose()).unwrap_or_else(|why| panic!("{why}"));
        Auth::on(service, seed).unwrap_or_else(|why| panic!("{why:#}"))
    }

    /// An [`Auth`] of `service` that has the keys already.
    ///
    /// # Panics
    /// When that is no service's name.
    #[must_use]
    pub fn auth(&self, service: &'static str) -> Auth {
        let auth = self.auth_over_mesh(service);
        auth.publish([self.users.public().clone()]);
        auth
    }

    /// A token of somebody with these roles.
    ///
    /// # Panics
    /// When `id` is none.
    #[must_use]
    pub fn token(&self, id: &str, roles: impl Into<Roles>) -> SecretString {
        let id = CustomerId::parse(id).unwrap_or_else(|why| panic!("{why}"));
        self.users.sign(&Claims::new(id, roles, Duration::from_secs(900))).into()
    }

    /// `channel`, for calls of somebody with these roles.
    ///
    /// # Panics
    /// When `id` is none.
    #[must_use]
    pub fn client(&self, channel: Channel, id: &str, roles: impl Into<Roles>) -> Outgoing {
        let outgoing = Outgoing::bearing(channel, &self.token(id, roles));
        outgoing.unwrap_or_else(|why| panic!("{why}"))
    }
}
