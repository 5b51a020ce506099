//! A connection of an attacker at the level of frames.

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

/// The address of the attacker.
const ATTACKER_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// The client's connection preface, RFC 9113 §3.4.
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

/// The id of the setting for the initial window of a stream.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The initial window of a connection.
const INITIAL_CONNECTION_WINDOW: u32 = 65_535;

pub(super) const READ: &str = "/chaos.v1.TargetService/Read";
pub(super) const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub(super) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A socket with the attacker's address.
pub(super) async fn socket(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ATTACKER_IP, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    OPENED.fetch_add(1, Relaxed);
    Ok(stream)
}

/// A connection that discards all input, or that reads nothing.
pub(super) struct RawConnection {
    output: OwnedWriteHalf,
    input: Input,
}

enum Input {
    Dropped(JoinHandle<()>),
    Unread(OwnedReadHalf),
}

impl RawConnection {
    /// Opens a connection that is read, with the largest connection window.
    pub(super) async fn open(to: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let (mut input, output) = socket(to).await?.into_split();
        let reader = tokio::spawn(async move {
            let mut scratch = vec![0; 1 << 14];
            while input.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
            CLOSED.fetch_add(1, Relaxed);
        });
        Self { output, input: Input::Dropped(reader) }.handshake(settings).await
    }

    /// Opens a connection that is never read.
    pub(super) async fn open_unread(to: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let (input, output) = socket(to).await?.into_split();
        Self { output, input: Input::Unread(input) }.handshake(settings).await
    }

    async fn handshake(mut self, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(settings_frame(settings));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        bytes.extend(window_update(0, MAX_WINDOW - INITIAL_CONNECTION_WINDOW));
        self.send(&bytes).await?;
        Ok(self)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes).await?;
        SENT.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    /// Sends batches until the server closes the connection.
    pub(super) async fn flood(mut self, mut batch: impl FnMut() -> Vec<u8> + Send) -> io::Result<()> {
        loop {
            self.send(&batch()).await?;
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the server closes the connection.
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

/// The header block of a call of `path`, without compression.
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

/// The frames of a complete call with one message.
pub(super) fn complete_call(path: &str, stream: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = call(path, stream);
    bytes.extend(frame(DATA, END_STREAM, stream, &prefixed(message)));
    bytes
}

/// A message with its gRPC length prefix.
pub(super) fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut bytes = message_prefix(message.len());
    bytes.extend(message);
    bytes
}

/// The length prefix of a message.
pub(super) fn message_prefix(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes
}

/// A `ReadRequest` for a response of so many bytes.
pub(super) fn request_for(bytes: u32) -> Vec<u8> {
    prost::Message::encode_to_vec(&crate::proto::ReadRequest { answer_bytes: bytes })
}

/// The ids of a client's streams: the first `count`.
pub(super) fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}
