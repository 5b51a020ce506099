//! A connection of an attacker, frame by frame.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinHandle,
};

use super::{CLOSED, OPENED, SENT};

/// Whose address the attacker has.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// What a client says first, RFC 9113 §3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const ACK: u8 = 1;

/// The id of the setting that bounds what is sent on a stream.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// What a connection's window is at first.
const FIRST_WINDOW: u32 = 65_535;

pub(super) const READ: &str = "/chaos.v1.TargetService/Read";
pub(super) const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub(super) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A socket with the attacker's address.
pub(super) async fn socket(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ATTACKER, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    OPENED.fetch_add(1, Relaxed);
    Ok(stream)
}

/// One that reads and drops whatever comes, or that reads nothing.
pub(super) struct RawConnection {
    output: OwnedWriteHalf,
    input: Input,
}

enum Input {
    Dropped(JoinHandle<()>),
    Unread(OwnedReadHalf),
}

impl RawConnection {
    /// One that reads. Its window for the whole connection is the largest.
    pub(super) async fn open(to: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let (mut input, output) = socket(to).await?.into_split();
        let reader = tokio::spawn(async move {
            let mut scratch = vec![0; 1 << 14];
            while input.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
            CLOSED.fetch_add(1, Relaxed);
        });
        Self { output, input: Input::Dropped(reader) }.greet(settings).await
    }

    /// One that never reads.
    pub(super) async fn open_deaf(to: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let (input, output) = socket(to).await?.into_split();
        Self { output, input: Input::Unread(input) }.greet(settings).await
    }

    async fn greet(mut self, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(settings_frame(settings));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        bytes.extend(window_update(0, MAX_WINDOW - FIRST_WINDOW));
        self.send(&bytes).await?;
        Ok(self)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes).await?;
        SENT.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    /// Sends one batch after the other until the server has had enough.
    pub(super) async fn flood(mut self, mut batch: impl FnMut() -> Vec<u8> + Send) -> io::Result<()> {
        loop {
            self.send(&batch()).await?;
            tokio::task::yield_now().await;
        }
    }

    /// Does nothing more until the server closes the connection.
    pub(super) async fn hold(self) -> io::Result<()> {
        match self.input {
            Input::Dropped(reader) => reader.await.map_err(io::Error::other),
            Input::Unread(input) => {
                let _held = (input, self.output);
                std::future::pending().await
            }
        }
    }
}

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) fn settings_frame(settings: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &settings.iter().flat_map(pair).collect::<Vec<_>>())
}

pub(super) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// The head of a call of `path`, compressed by nothing.
pub(super) fn head(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "target"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A header field that is a literal and not indexed, RFC 7541 §6.2.2.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.extend(integer(text.len()));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// An integer with a prefix of seven bits, RFC 7541 §5.1.
fn integer(value: usize) -> Vec<u8> {
    let Some(mut rest) = value.checked_sub(127) else { return vec![u8::try_from(value).unwrap_or(0)] };
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap_or(0));
    bytes
}

/// A call's HEADERS frame.
pub(super) fn call(path: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(path))
}

/// A whole call with one message.
pub(super) fn whole_call(path: &str, stream: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = call(path, stream);
    bytes.extend(frame(DATA, END_STREAM, stream, &prefixed(message)));
    bytes
}

/// A message as gRPC frames it.
pub(super) fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut bytes = announced(message.len());
    bytes.extend(message);
    bytes
}

/// The prefix of a message of so many bytes.
pub(super) fn announced(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes
}

/// A `ReadRequest` that asks for so many bytes.
pub(super) fn asks_for(bytes: u32) -> Vec<u8> {
    prost::Message::encode_to_vec(&crate::proto::ReadRequest { answer_bytes: bytes })
}

/// The ids of a client's streams: the first `count`.
pub(super) fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}
