//! A TCP proxy in front of an instance that injects network faults.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// The size of a chunk that is forwarded at once.
const CHUNK_BYTES: usize = 16 << 10;
/// The limit on chunks in flight per direction.
const MAX_CHUNKS_IN_FLIGHT: usize = 1024;

/// The fault on the connections of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkFault {
    /// Bytes are forwarded at once.
    None,
    /// Bytes of responses are forwarded that much later.
    Delay(Duration),
    /// Bytes are lost, and neither peer is notified.
    Blackhole,
}

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    fault: watch::Sender<NetworkFault>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Forwards connections to `listener` to `instance`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub(crate) fn start(listener: TcpListener, instance: SocketAddr) -> Result<Self> {
        let address = listener.local_addr().context("a listener without an address")?;
        let (fault, faults) = watch::channel(NetworkFault::None);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = faults.clone();
                // Ends with either peer: both are processes of this demo.
                tokio::spawn(async move { forward(client, instance, faults).await });
            }
        });
        Ok(Self { address, fault, _task: AbortOnDropHandle::new(task) })
    }

    /// Sets the fault, for open connections too.
    pub(crate) fn set(&self, fault: NetworkFault) {
        self.fault.send_replace(fault);
    }
}

async fn forward(
    client: TcpStream,
    instance: SocketAddr,
    faults: watch::Receiver<NetworkFault>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(instance).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // When one direction ends, both do.
    tokio::select! {
        ended = copy(from_client, to_server, faults.clone(), false) => ended,
        ended = copy(from_server, to_client, faults, true) => ended,
    }
}

/// Copies bytes, each chunk with the delay of the fault when it came. Only
/// answers are slowed, so that a call is delayed once. In a blackhole bytes wait, as
/// those that TCP sends again would, and no end is passed on.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    faults: watch::Receiver<NetworkFault>,
    delays: bool,
) -> io::Result<()> {
    let (chunks, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS_IN_FLIGHT);
    let mut blackhole = faults.clone();
    let read = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut chunk).await?;
            let delay = match *faults.borrow() {
                NetworkFault::Delay(delay) if delays => delay,
                _ => Duration::ZERO,
            };
            let sent = chunks.send((Instant::now() + delay, chunk[..length].to_vec())).await;
            if length == 0 || sent.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = waiting.recv().await {
            sleep_until(due).await;
            // Fails only when the proxy is gone.
            if blackhole.wait_for(|now| *now != NetworkFault::Blackhole).await.is_err() {
                break;
            }
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn in_a_hole_nothing_arrives_until_it_is_fair_again() {
        let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = instance.local_addr().unwrap();
        let proxy = Proxy::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), at).unwrap();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let (mut server, _) = instance.accept().await.unwrap();
        let mut byte = [0];

        client.write_all(b"a").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        proxy.set(NetworkFault::Blackhole);
        client.write_all(b"b").await.unwrap();
        assert!(timeout(Duration::from_millis(100), server.read_exact(&mut byte)).await.is_err());
        proxy.set(NetworkFault::None);
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
