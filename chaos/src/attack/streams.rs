//! Attacks by streams that are left open, or whose responses are not read.

use std::{io, net::SocketAddr, time::Duration};

use tokio::time::sleep;

use super::{
    on_each_connection,
    raw_connection::{
        DATA, INITIAL_WINDOW_SIZE, MAX_WINDOW, READ, REFLECTION, RawConnection, WATCH, call, complete_call,
        frame, ids, message_prefix, prefixed, request_for, window_update,
    },
};

/// The stream limit of a connection.
const MAX_STREAMS: u32 = 1_000;
const MIB: u32 = 1 << 20;
/// The default frame size limit of a server.
const MAX_FRAME_BYTES: usize = 1 << 14;

/// Opens `count` streams with the frames of `open`, and holds them.
async fn hold(
    mut raw_connection: RawConnection,
    count: u32,
    open: impl Fn(u32) -> Vec<u8>,
) -> io::Result<()> {
    for stream in ids(count) {
        raw_connection.send(&open(stream)).await?;
    }
    raw_connection.hold().await
}

/// Calls without a complete message: 10,000 of them, on ten connections.
pub(super) async fn headers_only(to: SocketAddr) {
    on_each_connection(10, || async move {
        let raw_connection = RawConnection::open(to, &[]).await?;
        hold(raw_connection, MAX_STREAMS, |stream| {
            let mut bytes = call(READ, stream);
            match stream / 2 % 3 {
                0 => {}
                1 => bytes.extend(frame(DATA, 0, stream, &[0, 0])),
                _ => bytes.extend(frame(DATA, 0, stream, &message_prefix(100))),
            }
            bytes
        })
        .await
    })
    .await;
}

/// 20,000 streams of a method on which no message is due.
pub(super) async fn open(to: SocketAddr) {
    on_each_connection(20, || async move {
        hold(RawConnection::open(to, &[]).await?, MAX_STREAMS, |stream| call(REFLECTION, stream)).await
    })
    .await;
}

/// 10,000 watches of the server's health, whose responses are not read.
pub(super) async fn watches(to: SocketAddr) {
    on_each_connection(10, || async move {
        let raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
        hold(raw_connection, MAX_STREAMS, |stream| complete_call(WATCH, stream, &[])).await
    })
    .await;
}

/// 400 responses of 2 MiB, with a window of zero.
pub(super) async fn window_zero(to: SocketAddr) {
    on_each_connection(20, || async move {
        let raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
        hold(raw_connection, 20, |stream| complete_call(READ, stream, &request_for(2 * MIB))).await
    })
    .await;
}

/// 400 responses of 2 MiB with the largest window, on sockets that are not
/// read.
pub(super) async fn unread_socket(to: SocketAddr) {
    on_each_connection(40, || async move {
        let raw_connection = RawConnection::open_unread(to, &[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]).await?;
        hold(raw_connection, 10, |stream| complete_call(READ, stream, &request_for(2 * MIB))).await
    })
    .await;
}

/// 10,000 responses of 60 KiB on such sockets.
pub(super) async fn unread_socket_small(to: SocketAddr) {
    on_each_connection(10, || async move {
        let raw_connection = RawConnection::open_unread(to, &[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]).await?;
        hold(raw_connection, MAX_STREAMS, |stream| complete_call(READ, stream, &request_for(60 << 10))).await
    })
    .await;
}

/// Calls that are rejected immediately, whose rejections are not read.
pub(super) async fn refusals(to: SocketAddr) {
    on_each_connection(100, || async move {
        let mut raw_connection = RawConnection::open_unread(to, &[]).await?;
        let mut next = 1;
        loop {
            let batch: Vec<_> =
                ids(100).flat_map(|id| complete_call("/none/None", next + id - 1, &[])).collect();
            next += 200;
            raw_connection.send(&batch).await?;
        }
    })
    .await;
}

/// Streams whose responses are not read, so that the handler stops reading, and
/// that are filled up to their window.
pub(super) async fn unread_but_sent_to(to: SocketAddr) {
    on_each_connection(600, || async move {
        let mut raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
        raw_connection.send(&call(REFLECTION, 1)).await?;
        // A request for the file that describes the service.
        let request = prefixed(b"\x22\x16chaos.v1.TargetService");
        raw_connection.send(&frame(DATA, 0, 1, &request)).await?;
        // The requests that the server has read by then free window for more.
        sleep(Duration::from_millis(200)).await;
        let more = request.repeat(MAX_FRAME_BYTES / request.len());
        for _ in 0..63 {
            raw_connection.send(&frame(DATA, 0, 1, &more)).await?;
        }
        raw_connection.hold().await
    })
    .await;
}

/// Responses that are read byte by byte.
pub(super) async fn small_windows(to: SocketAddr) {
    on_each_connection(20, || async move {
        let mut raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 1)]).await?;
        for stream in ids(10) {
            raw_connection.send(&complete_call(READ, stream, &request_for(2 * MIB))).await?;
        }
        raw_connection.flood(|| ids(10).flat_map(|stream| window_update(stream, 1)).collect()).await
    })
    .await;
}
