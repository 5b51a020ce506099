//! Events by NATS: a stream that keeps them for a week, which any service may
//! follow.
//!
//! A sender's relay publishes to the stream [`STREAM`], under the subject
//! `shop.events.v1.SOURCE.AGGREGATE`, with the event's id as `Nats-Msg-Id`, and
//! waits for the acknowledgement. Each service that takes events has a durable
//! consumer of its name, which one of its replicas pulls from.
//!
//! What a consumer is sent again comes after later messages, so its state alone
//! keeps no order. Therefore how far a service is stands in its own database,
//! and is written in the transaction that writes down what came. Whoever begins
//! to pull makes the consumer anew from there, and begins anew when a message is
//! missing between two, or the connection was lost: order and nothing lost,
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
mod follow;
mod link;
mod publish;

pub(super) use arrivals::Arrivals;
pub(super) use follow::follow;
use link::{Link, Moment};
pub(super) use publish::ToStream;

/// Who the rows of an outbox are for that go over NATS.
pub(super) const NATS: &str = "nats";
/// The stream.
const STREAM: &str = "shop-events";
/// What all subjects begin with.
const SUBJECT: &str = "shop.events.v1";
/// How long an event is kept: whoever was away for longer has missed some.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// How long the stream knows an id that was published twice.
const DEDUPLICATED: Duration = Duration::from_mins(2);
/// How soon to look again for what is about to be.
const SOON: Duration = Duration::from_millis(5);
/// The longest that one exchange with the server may take.
const LIMIT: Duration = Duration::from_secs(3);

/// A NATS server, which may be away. Cheap to clone; clones share a connection.
#[derive(Clone, Debug)]
pub struct Nats {
    client: Client,
    link: Link,
}

/// Why there can be no connection to NATS.
#[derive(Debug, thiserror::Error)]
#[error("NATS_URL is not nats://HOST:PORT: {0}")]
pub struct InvalidNatsUrl(String);

/// The address of the server; the reason why there is none is given without
/// the URL, which may hold a password.
fn address(url: &SecretString) -> Result<ServerAddr, InvalidNatsUrl> {
    ServerAddr::from_str(url.expose_secret()).map_err(|why| InvalidNatsUrl(why.kind().to_string()))
}

impl Nats {
    /// Checks `url` without connecting.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn check(url: &SecretString) -> Result<(), InvalidNatsUrl> {
        address(url).map(drop)
    }

    /// Connects to the server at `url` for the service `name`, again and again
    /// until it is there. Within a tokio runtime.
    ///
    /// # Errors
    /// When `url` is none; that the server is away is no error.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(url: &SecretString, name: &str) -> Result<Self, InvalidNatsUrl> {
        let address = address(url)?;
        let link = Link::default();
        let heard = link.clone();
        let client = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(LIMIT)
            .request_timeout(Some(LIMIT))
            .reconnect_delay_callback(|tries| Duration::from_millis(100 * tries.min(10) as u64))
            .event_callback(move |event| {
                heard.hear(&event);
                std::future::ready(())
            })
            .connect(address)
            .await
            .map_err(|why| InvalidNatsUrl(why.kind().to_string()))?;
        Ok(Self { client, link })
    }

    /// Whether there is a connection. Without one nothing is published, for the
    /// client would keep it and send it much later.
    fn is_there(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Until there is a connection that was made since `then`.
    async fn back_since(&self, then: Moment) {
        self.link.made_since(then).await;
        // The client tells of it a moment before it has it.
        while !self.is_there() {
            sleep(SOON).await;
        }
    }

    fn context(&self) -> Context {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(LIMIT);
        context
    }

    /// The stream, which is made where there is none.
    async fn stream(&self) -> Result<Stream, String> {
        if !self.is_there() {
            return Err("NATS is away".to_owned());
        }
        let config = Config {
            name: STREAM.to_owned(),
            subjects: vec![format!("{SUBJECT}.>")],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            max_age: KEPT,
            duplicate_window: DEDUPLICATED,
            ..Config::default()
        };
        let made = timeout(LIMIT, self.context().get_or_create_stream(config)).await;
        made.map_err(|_| "NATS does not answer".to_owned())?
            .map_err(|why| format!("the stream {STREAM} cannot be had: {why}"))
    }
}

/// The subject of a service's events, or of one aggregate's.
fn subject(source: &str, aggregate: &str) -> String {
    format!("{SUBJECT}.{}.{aggregate}", token(source))
}

/// A text as one token of a subject: what has a meaning in subjects is written
/// as `=` and its code.
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
    fn a_subject_has_four_tokens_and_tells_aggregates_apart() {
        assert_eq!(subject("order-service", &token("0198-a_B")), "shop.events.v1.order-service.0198-a_B");
        let mut seen = std::collections::HashSet::new();
        for hostile in ["", "=", "=2E", ".", "*", ">", " ", "a.b", "a b", "ä", "\r\n", "\0"] {
            let token = token(hostile);
            assert!(token.bytes().all(|byte| byte == b'=' || byte.is_ascii_alphanumeric()), "{token}");
            assert!(!token.is_empty() && seen.insert(token.clone()), "{token} twice");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_no_error_and_a_url_that_is_none_is_not_repeated() {
        let away = Nats::connect(&"nats://127.0.0.1:1".into(), "test").await.unwrap();
        assert!(!away.is_there());
        assert_eq!(away.stream().await.unwrap_err(), "NATS is away");
        let why = Nats::connect(&"nats://user:hunter2@[".into(), "test").await.unwrap_err();
        assert!(!why.to_string().contains("hunter2"), "{why}");
    }
}
