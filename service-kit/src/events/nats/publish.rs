//! From an outbox to the stream.

use std::{collections::HashSet, time::Duration};

use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    super::queue::Waiting,
    super::relay::{Delivered, Then, Transport},
    Nats,
    link::Moment,
    subject, token,
};

/// Publishes the events of one source.
#[derive(Debug)]
pub(in super::super) struct ToStream {
    nats: Nats,
    source: &'static str,
    deadline: Duration,
    /// Whether the stream was there last.
    ready: bool,
    /// When it was last begun to deliver.
    began: Moment,
}

impl ToStream {
    pub(in super::super) fn new(nats: Nats, source: &'static str, deadline: Duration) -> Self {
        Self { began: nats.link.now(), nats, source, deadline, ready: false }
    }

    /// Publishes at most one event of each aggregate, all at once; gives what
    /// was acknowledged, and what went wrong first.
    async fn wave(&self, wave: &[(usize, &Waiting)]) -> (Vec<i64>, Option<Then>) {
        let context = self.nats.context();
        let publish = async |(place, one): &(usize, &Waiting)| {
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_MESSAGE_ID, one.id.as_str());
            let subject = subject(self.source, &token(&one.aggregate));
            let sent = context.publish_with_headers(subject, headers, one.event.clone().into());
            let acknowledged = async { sent.await?.await };
            let acknowledged = tokio::select! {
                acknowledged = timeout(self.deadline, acknowledged) => acknowledged,
                // Nobody acknowledges over a connection what came by another.
                () = self.nats.link.lost_since(self.began) => {
                    return Err(Then::Away("the connection to NATS was lost".to_owned()));
                }
            };
            match acknowledged {
                Ok(Ok(_)) => Ok(one.position),
                Ok(Err(why)) if why.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    Err(Then::Park(*place, why.to_string()))
                }
                Ok(Err(why)) => Err(Then::Away(why.to_string())),
                Err(_) => Err(Then::Away("NATS does not answer".to_owned())),
            }
        };
        let mut taken = Vec::with_capacity(wave.len());
        let mut then = None;
        for done in join_all(wave.iter().map(publish)).await {
            match done {
                Ok(position) => taken.push(position),
                Err(why) => then = then.or(Some(why)),
            }
        }
        (taken, then)
    }
}

#[tonic::async_trait]
impl Transport for ToStream {
    async fn deliver(&mut self, waiting: &[Waiting]) -> Delivered {
        self.began = self.nats.link.now();
        if !self.ready {
            match self.nats.stream().await {
                Ok(_) => self.ready = true,
                Err(why) => return Then::Away(why).alone(),
            }
        }
        let mut taken = Vec::with_capacity(waiting.len());
        let mut left: Vec<(usize, &Waiting)> = waiting.iter().enumerate().collect();
        while !left.is_empty() {
            if !self.nats.is_there() {
                self.ready = false;
                return Delivered { taken, then: Then::Away("NATS is away".to_owned()) };
            }
            // One of an aggregate is acknowledged before the next is sent.
            let mut seen = HashSet::new();
            let (wave, later) = left.iter().partition(|(_, one)| seen.insert(one.aggregate.as_str()));
            left = later;
            let wave: Vec<_> = wave;
            let (acknowledged, then) = self.wave(&wave).await;
            taken.extend(acknowledged);
            if let Some(then) = then {
                self.ready = matches!(then, Then::Park(..));
                return Delivered { taken, then };
            }
        }
        Delivered { taken, then: Then::Go }
    }
    async fn back(&mut self) {
        self.nats.back_since(self.began).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// A server that takes what is published, and goes away without a word.
    async fn takes_and_leaves(listener: TcpListener) {
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
        let server = tokio::spawn(takes_and_leaves(listener));
        let nats = Nats::connect(&url.into(), "test").await.unwrap();
        nats.link.made_since(Moment::default()).await;
        let limit = Duration::from_secs(60);
        let mut to = ToStream { ready: true, ..ToStream::new(nats, "test", limit) };
        let (id, aggregate) = ("id".to_owned(), "a".to_owned());
        let waiting = Waiting { position: 1, id, aggregate, attempts: 0, event: vec![1] };
        let then = Then::Away("the connection to NATS was lost".to_owned());
        assert_eq!(to.deliver(&[waiting]).await, then.alone());
        server.await.unwrap();
    }
}
