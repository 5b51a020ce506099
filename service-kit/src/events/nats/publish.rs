//! The transport of events from an outbox to the stream.

use std::{collections::HashSet, time::Duration};

use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    super::queue::PendingEvent,
    super::relay::{Delivery, DeliveryStatus, Transport},
    NOT_CONNECTED, TIMED_OUT, stream, subject, token,
};
use crate::nats::{ConnectionCounts, Nats};

/// The publisher of one source's events.
#[derive(Debug)]
pub(in super::super) struct StreamTransport {
    nats: Nats,
    source: &'static str,
    deadline: Duration,
    has_stream: bool,
    /// The state of the connection when the last delivery began.
    began: ConnectionCounts,
}

impl StreamTransport {
    pub(in super::super) fn new(nats: Nats, source: &'static str, deadline: Duration) -> Self {
        Self { began: nats.connection.snapshot(), nats, source, deadline, has_stream: false }
    }

    /// Publishes at most one event of each aggregate, concurrently. Returns the
    /// acknowledged positions, and the first failure.
    async fn publish_wave(&self, wave: &[(usize, &PendingEvent)]) -> (Vec<i64>, Option<DeliveryStatus>) {
        let context = self.nats.context();
        let publish = async |(index, one): &(usize, &PendingEvent)| {
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_MESSAGE_ID, one.id.as_str());
            let subject = subject(self.source, &token(&one.aggregate));
            let sent = context.publish_with_headers(subject, headers, one.event.clone().into());
            let acknowledged = async { sent.await?.await };
            let acknowledged = tokio::select! {
                acknowledged = timeout(self.deadline, acknowledged) => acknowledged,
                // The acknowledgement cannot arrive over another connection.
                () = self.nats.connection.lost_since(self.began) => {
                    return Err(DeliveryStatus::Unavailable("the connection to NATS was lost".to_owned()));
                }
            };
            match acknowledged {
                Ok(Ok(_)) => Ok(one.position),
                Ok(Err(why)) if why.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    Err(DeliveryStatus::Park(*index, why.to_string()))
                }
                Ok(Err(why)) => Err(DeliveryStatus::Unavailable(why.to_string())),
                Err(_) => Err(DeliveryStatus::Unavailable(TIMED_OUT.to_owned())),
            }
        };
        let mut taken = Vec::with_capacity(wave.len());
        let mut status = None;
        for done in join_all(wave.iter().map(publish)).await {
            match done {
                Ok(position) => taken.push(position),
                Err(why) => status = status.or(Some(why)),
            }
        }
        (taken, status)
    }
}

#[tonic::async_trait]
impl Transport for StreamTransport {
    async fn deliver(&mut self, waiting: &[PendingEvent]) -> Delivery {
        self.began = self.nats.connection.snapshot();
        if !self.has_stream {
            match stream(&self.nats).await {
                Ok(_) => self.has_stream = true,
                Err(why) => return DeliveryStatus::Unavailable(why).with_none_taken(),
            }
        }
        let mut taken = Vec::with_capacity(waiting.len());
        let mut left: Vec<(usize, &PendingEvent)> = waiting.iter().enumerate().collect();
        while !left.is_empty() {
            if !self.nats.is_connected() {
                self.has_stream = false;
                return Delivery { taken, status: DeliveryStatus::Unavailable(NOT_CONNECTED.to_owned()) };
            }
            // An event is acknowledged before the next of its aggregate is sent.
            let mut seen = HashSet::new();
            let (wave, later) = left.iter().partition(|(_, one)| seen.insert(one.aggregate.as_str()));
            left = later;
            let wave: Vec<_> = wave;
            let (acknowledged, status) = self.publish_wave(&wave).await;
            taken.extend(acknowledged);
            if let Some(status) = status {
                self.has_stream = matches!(status, DeliveryStatus::Park(..));
                return Delivery { taken, status };
            }
        }
        Delivery { taken, status: DeliveryStatus::Continue }
    }

    async fn reconnected(&mut self) {
        self.nats.reconnected_since(self.began).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// A server that receives a message, and disconnects without acknowledging it.
    async fn receive_and_disconnect(listener: TcpListener) {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = BufReader::new(socket);
        socket.write_all(b"INFO {\"headers\":true,\"max_payload\":1048576}\r\n").await.unwrap();
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).await.unwrap();
            match line.split(' ').next().map(str::trim) {
                Some("PING") => socket.write_all(b"PONG\r\n").await.unwrap(),
                Some("HPUB") => return,
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_is_not_waited_for_when_its_connection_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(receive_and_disconnect(listener));
        let nats = Nats::connect(&url.into(), "test").await.unwrap();
        nats.connection.connected_since(ConnectionCounts::default()).await;
        let limit = Duration::from_secs(60);
        let mut to = StreamTransport { has_stream: true, ..StreamTransport::new(nats, "test", limit) };
        let (id, aggregate) = ("id".to_owned(), "a".to_owned());
        let waiting = PendingEvent { position: 1, id, aggregate, attempts: 0, event: vec![1] };
        let status = DeliveryStatus::Unavailable("the connection to NATS was lost".to_owned());
        assert_eq!(to.deliver(&[waiting]).await, status.with_none_taken());
        server.await.unwrap();
    }
}
