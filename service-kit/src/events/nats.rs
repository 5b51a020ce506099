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

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType, Stream};
use tokio::time::timeout;

use crate::nats::{Nats, REQUEST_TIMEOUT};

mod arrivals;
mod consume;
mod publish;

pub(super) use arrivals::ArrivalsTransport;
pub(super) use consume::consume;
pub(super) use publish::StreamTransport;

/// The subscriber of outbox rows that go over NATS.
pub(super) const NATS_SUBSCRIBER: &str = "nats";
const STREAM: &str = "shop-events";
/// The prefix of all subjects.
const SUBJECT: &str = "shop.events.v1";
/// The age at which the stream deletes an event. A service that was down for longer
/// misses some.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// The time for which the stream detects an id that is published twice.
const DEDUPLICATION_WINDOW: Duration = Duration::from_mins(2);
const NOT_CONNECTED: &str = "NATS is not connected";
const TIMED_OUT: &str = "NATS did not respond in time";

/// Gets the stream, or creates it.
async fn stream(nats: &Nats) -> Result<Stream, String> {
    if !nats.is_connected() {
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
    let stream = timeout(REQUEST_TIMEOUT, nats.context().get_or_create_stream(config)).await;
    stream
        .map_err(|_| TIMED_OUT.to_owned())?
        .map_err(|why| format!("failed to create the NATS stream {STREAM}: {why}"))
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
    async fn an_unreachable_server_has_no_stream() {
        let unreachable = Nats::connect(&"nats://127.0.0.1:1".into(), "test").await.unwrap();
        assert_eq!(stream(&unreachable).await.unwrap_err(), NOT_CONNECTED);
    }
}
