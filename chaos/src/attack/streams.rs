//! Attacks by streams that are opened and left, or whose answers nobody takes.

use std::{io, net::SocketAddr, time::Duration};

use tokio::time::sleep;

use super::{
    on_each,
    raw_connection::{
        DATA, INITIAL_WINDOW_SIZE, MAX_WINDOW, READ, REFLECTION, RawConnection, WATCH, announced, asks_for,
        call, frame, ids, prefixed, whole_call, window_update,
    },
};

/// How many streams a connection may have at a time.
const STREAMS: u32 = 1_000;
const MIB: u32 = 1 << 20;
/// The largest frame that a server takes unless it says otherwise.
const FRAME: usize = 1 << 14;

/// Opens `count` streams as `open` says, and holds them.
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

/// Calls whose message does not come: 10,000 of them, on ten connections.
pub(super) async fn headers_only(to: SocketAddr) {
    on_each(10, || async move {
        let raw_connection = RawConnection::open(to, &[]).await?;
        hold(raw_connection, STREAMS, |stream| {
            let mut bytes = call(READ, stream);
            match stream / 2 % 3 {
                0 => {}
                1 => bytes.extend(frame(DATA, 0, stream, &[0, 0])),
                _ => bytes.extend(frame(DATA, 0, stream, &announced(100))),
            }
            bytes
        })
        .await
    })
    .await;
}

/// 20,000 streams that may stay open: no message is due on them.
pub(super) async fn open(to: SocketAddr) {
    on_each(20, || async move {
        hold(RawConnection::open(to, &[]).await?, STREAMS, |stream| call(REFLECTION, stream)).await
    })
    .await;
}

/// 10,000 watches of the server's health, whose answers are not taken.
pub(super) async fn watches(to: SocketAddr) {
    on_each(10, || async move {
        let raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
        hold(raw_connection, STREAMS, |stream| whole_call(WATCH, stream, &[])).await
    })
    .await;
}

/// 400 answers of 2 MiB, for which there is no window.
pub(super) async fn window_zero(to: SocketAddr) {
    on_each(20, || async move {
        let raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
        hold(raw_connection, 20, |stream| whole_call(READ, stream, &asks_for(2 * MIB))).await
    })
    .await;
}

/// The same with all the window there can be, on sockets that are not read.
pub(super) async fn deaf(to: SocketAddr) {
    on_each(40, || async move {
        let raw_connection = RawConnection::open_deaf(to, &[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]).await?;
        hold(raw_connection, 10, |stream| whole_call(READ, stream, &asks_for(2 * MIB))).await
    })
    .await;
}

/// 10,000 answers of 60 KiB on such sockets.
pub(super) async fn deaf_small(to: SocketAddr) {
    on_each(10, || async move {
        let raw_connection = RawConnection::open_deaf(to, &[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]).await?;
        hold(raw_connection, STREAMS, |stream| whole_call(READ, stream, &asks_for(60 << 10))).await
    })
    .await;
}

/// Calls that are refused at once, whose refusals are not read.
pub(super) async fn refusals(to: SocketAddr) {
    on_each(100, || async move {
        let mut raw_connection = RawConnection::open_deaf(to, &[]).await?;
        let mut next = 1;
        loop {
            let batch: Vec<_> =
                ids(100).flat_map(|id| whole_call("/none/None", next + id - 1, &[])).collect();
            next += 200;
            raw_connection.send(&batch).await?;
        }
    })
    .await;
}

/// Streams whose answers are not taken, so that the handler does not read on,
/// and that are sent as much as their window takes.
pub(super) async fn unread_but_sent_to(to: SocketAddr) {
    on_each(600, || async move {
        let mut raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
        raw_connection.send(&call(REFLECTION, 1)).await?;
        // The file that describes the service.
        let asks = prefixed(b"\x22\x16chaos.v1.TargetService");
        raw_connection.send(&frame(DATA, 0, 1, &asks)).await?;
        // What the server has read by then makes room for more.
        sleep(Duration::from_millis(200)).await;
        let more = asks.repeat(FRAME / asks.len());
        for _ in 0..63 {
            raw_connection.send(&frame(DATA, 0, 1, &more)).await?;
        }
        raw_connection.hold().await
    })
    .await;
}

/// Answers that are taken byte by byte.
pub(super) async fn small_windows(to: SocketAddr) {
    on_each(20, || async move {
        let mut raw_connection = RawConnection::open(to, &[(INITIAL_WINDOW_SIZE, 1)]).await?;
        for stream in ids(10) {
            raw_connection.send(&whole_call(READ, stream, &asks_for(2 * MIB))).await?;
        }
        raw_connection.flood(|| ids(10).flat_map(|stream| window_update(stream, 1)).collect()).await
    })
    .await;
}
