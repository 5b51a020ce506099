//! Events over NATS: a stream that retains them for a week, which any service may
//! consume.
//!
//! A sender's relay publishes to the stream [`STREAM`], under the subject
//! `shop.events.v1.SOURCE.AGGREGATE`, with the event's id as `Nats-Msg-Id`, and
//! waits for the acknowledgement. Each service that receives events has a durable
//! consumer of its name, which one of its replicas pulls from.
//!
//! A redelivered message arrives after later ones, so the consumer's state alone
//! does not preserve order. Therefore a service stores its position in its own
//! database, in the transaction that stores the messages. A replica that begins
//! to pull recreates the consumer from there, and does so again after a gap in
//! the sequence or a lost connection: so events stay in order and none is lost,
//! whatever was acknowledged.

use std::{str::FromStr, time::Duration};

use async_nats::{
    Client, ConnectOptions, ServerAddr,
    connection::State,
    jetstream::{
        self, Context,
        stream::{Config, RetentionPolicy, StorageType, Stream},
    },
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{sleep, timeout};

mod arrivals;
mod connection;
mod consume;
mod publish;

pub(super) use arrivals::ArrivalsTransport;
use connection::{ConnectionCounts, ConnectionEvents};
pub(super) use consume::consume;
pub(super) use publish::StreamTransport;

/// The subscriber of outbox rows that go over NATS.
pub(super) const NATS_SUBSCRIBER: &str = "nats";
const STREAM: &str = "shop-events";
/// The prefix of all subjects.
const SUBJECT: &str = "shop.events.v1";
/// How long the stream retains an event. A service that was down for longer
/// misses some.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// How long the stream detects an id that is published twice.
const DEDUPLICATION_WINDOW: Duration = Duration::from_mins(2);
const NOT_CONNECTED: &str = "NATS is not connected";
const TIMED_OUT: &str = "NATS did not respond in time";
const CONNECTED_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The timeout of one request to the server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A NATS server, which may be unavailable. Cheap to clone; clones share a
/// connection.
#[derive(Clone, Debug)]
pub struct Nats {
    client: Client,
    connection: ConnectionEvents,
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
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits for a connection that was established after `snapshot`.
    async fn reconnected_since(&self, snapshot: ConnectionCounts) {
        self.connection.connected_since(snapshot).await;
        // The client reports the event a moment before its state changes.
        while !self.is_connected() {
            sleep(CONNECTED_POLL_INTERVAL).await;
        }
    }

    fn context(&self) -> Context {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(REQUEST_TIMEOUT);
        context
    }

    /// Gets the stream, or creates it.
    async fn stream(&self) -> Result<Stream, String> {
        if !self.is_connected() {
            return Err(NOT_CONNECTED.to_owned());
        }
        let config = Config {
            name: STREAM.to_owned(),
            subjects: vec![format!("{SUBJECT}.>")],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            max_age: RETENTION,
            duplicate_window: DEDUPLICATION_WINDOW,
            ..Config::default()
        };
        let stream = timeout(REQUEST_TIMEOUT, self.context().get_or_create_stream(config)).await;
        stream
            .map_err(|_| TIMED_OUT.to_owned())?
            .map_err(|why| format!("failed to create the NATS stream {STREAM}: {why}"))
    }
}

/// The subject of a service's events, or of one aggregate's.
fn subject(source: &str, aggregate: &str) -> String {
    format!("{SUBJECT}.{}.{aggregate}", token(source))
}

/// Escapes a text as one token of a subject: special characters become `=` and
/// their code.
fn token(text: &str) -> String {
    if text.is_empty() {
        return "=".to_owned();
    }
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => token.push(char::from(byte)),
            _ => token.push_str(&format!("={byte:02X}")),
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_four_tokens_and_distinguishes_aggregates() {
        assert_eq!(subject("order-service", &token("0198-a_B")), "shop.events.v1.order-service.0198-a_B");
        let mut seen = std::collections::HashSet::new();
        for hostile in ["", "=", "=2E", ".", "*", ">", " ", "a.b", "a b", "ä", "\r\n", "\0"] {
            let token = token(hostile);
            assert!(token.bytes().all(|byte| byte == b'=' || byte.is_ascii_alphanumeric()), "{token}");
            assert!(!token.is_empty() && seen.insert(token.clone()), "{token} twice");
        }
    }

    #[tokio::test]
    async fn an_unreachable_server_is_no_error_and_an_invalid_url_is_not_shown() {
        let unreachable = Nats::connect(&"nats://127.0.0.1:1".into(), "test").await.unwrap();
        assert!(!unreachable.is_connected());
        assert_eq!(unreachable.stream().await.unwrap_err(), NOT_CONNECTED);
        let why = Nats::connect(&"nats://user:hunter2@[".into(), "test").await.unwrap_err();
        assert!(!why.to_string().contains("hunter2"), "{why}");
    }
}
