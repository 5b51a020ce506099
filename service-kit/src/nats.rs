//! The client of NATS.

use std::{str::FromStr, time::Duration};

use async_nats::{
    Client, ConnectOptions, ServerAddr,
    connection::State,
    jetstream::{self, Context},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::sleep;

mod connection;

pub(crate) use connection::{ConnectionCounts, ConnectionEvents};

/// The timeout of one request to the server.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECTED_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A NATS server, which may be unavailable. Cheap to clone; clones share a
/// connection.
#[derive(Clone, Debug)]
pub struct Nats {
    client: Client,
    pub(crate) connection: ConnectionEvents,
}

/// The reason why a text is no NATS URL.
#[derive(Debug, thiserror::Error)]
#[error("NATS_URL is not nats://HOST:PORT: {0}")]
pub struct InvalidNatsUrl(String);

/// Parses the address of the server. The error does not show the URL, which may
/// hold a password.
fn address(url: &SecretString) -> Result<ServerAddr, InvalidNatsUrl> {
    ServerAddr::from_str(url.expose_secret()).map_err(|why| InvalidNatsUrl(why.kind().to_string()))
}

impl Nats {
    /// Checks `url` without connecting.
    ///
    /// # Errors
    /// When it is invalid.
    pub(crate) fn check(url: &SecretString) -> Result<(), InvalidNatsUrl> {
        address(url).map(drop)
    }

    /// Connects to the server at `url` for the service `name`, and retries until it
    /// is reachable. Within a tokio runtime.
    ///
    /// # Errors
    /// When `url` is invalid. An unreachable server is no error.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(url: &SecretString, name: &str) -> Result<Self, InvalidNatsUrl> {
        let address = address(url)?;
        let connection = ConnectionEvents::default();
        let events = connection.clone();
        let client = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(REQUEST_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(|tries| Duration::from_millis(100 * tries.min(10) as u64))
            .event_callback(move |event| {
                events.record(&event);
                std::future::ready(())
            })
            .connect(address)
            .await
            .map_err(|why| InvalidNatsUrl(why.kind().to_string()))?;
        Ok(Self { client, connection })
    }

    /// True when there is a connection. Without one nothing is published, since the
    /// client would buffer it and send it much later.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits for a connection that was established after `snapshot`.
    pub(crate) async fn reconnected_since(&self, snapshot: ConnectionCounts) {
        self.connection.connected_since(snapshot).await;
        // The client reports the event a moment before its state changes.
        while !self.is_connected() {
            sleep(CONNECTED_POLL_INTERVAL).await;
        }
    }

    pub(crate) fn context(&self) -> Context {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(REQUEST_TIMEOUT);
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_server_is_no_error_and_an_invalid_url_is_not_shown() {
        let unreachable = Nats::connect(&"nats://127.0.0.1:1".into(), "test").await.unwrap();
        assert!(!unreachable.is_connected());
        let why = Nats::connect(&"nats://user:hunter2@[".into(), "test").await.unwrap_err();
        assert!(!why.to_string().contains("hunter2"), "{why}");
    }
}
