//! The one handle: channels to services, and a server that registers itself.

use crate::{Channel, Error, server::Server};

/// The way into the mesh: hands out channels and servers that share one
/// registry client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mesh {}

impl Mesh {
    /// A mesh as the environment says: `CONSUL_*` as Consul's own command
    /// line reads it, `CONSORT_*` for this library.
    ///
    /// # Errors
    /// When a variable is set to something that it cannot mean.
    pub async fn from_env() -> Result<Self, Error> {
        Ok(Self {})
    }

    /// A channel to `service`; the same one each time. An impossible name
    /// gives a channel whose every call fails saying so.
    #[must_use]
    pub fn channel(&self, _service: &str) -> Channel {
        Channel {}
    }

    /// A server for `service`.
    #[must_use]
    pub fn serve(&self, _service: &str) -> Server {
        Server {}
    }
}
