//! A network that can be hurt: connections to an instance go through here.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// How much is passed on at once.
const PIECE: usize = 16 << 10;
/// How many pieces may be on their way.
const PIECES: usize = 1024;

/// What happens to what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It is passed on.
    Fair,
    /// It is passed on that much later.
    Slow(Duration),
    /// It vanishes, and nobody is told.
    Hole,
}

/// The proxy. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    weather: watch::Sender<Weather>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Passes connections to `listener` on to `instance`.
    ///
    /// # Errors
    /// When the listener's address cannot be told.
    pub(crate) fn start(listener: TcpListener, instance: SocketAddr) -> Result<Self> {
        let address = listener.local_addr().context("a listener without an address")?;
        let (weather, told) = watch::channel(Weather::Fair);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let told = told.clone();
                // Ends with either peer: both are processes of this demo.
                tokio::spawn(async move { join(client, instance, told).await });
            }
        });
        Ok(Self { address, weather, _task: AbortOnDropHandle::new(task) })
    }

    /// So it is from now on, for open connections too.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn join(client: TcpStream, instance: SocketAddr, told: watch::Receiver<Weather>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(instance).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // What is lost in between stays lost: when one way ends, both do.
    tokio::select! {
        ended = pass(from_client, to_server, told.clone(), false) => ended,
        ended = pass(from_server, to_client, told, true) => ended,
    }
}

/// Passes bytes on, each piece as late as the weather was when it came. Only
/// answers are slowed, so that a call is late once. In a hole bytes wait, as
/// those that TCP sends again would, and no end is told.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    told: watch::Receiver<Weather>,
    answers: bool,
) -> io::Result<()> {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let mut hole = told.clone();
    let read = async move {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from.read(&mut piece).await?;
            let late = match *told.borrow() {
                Weather::Slow(late) if answers => late,
                _ => Duration::ZERO,
            };
            let sent = pieces.send((Instant::now() + late, piece[..length].to_vec())).await;
            if length == 0 || sent.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = waiting.recv().await {
            sleep_until(due).await;
            // Fails only when the proxy is gone.
            if hole.wait_for(|now| *now != Weather::Hole).await.is_err() {
                break;
            }
            to.write_all(&piece).await?;
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
        proxy.set(Weather::Hole);
        client.write_all(b"b").await.unwrap();
        assert!(timeout(Duration::from_millis(100), server.read_exact(&mut byte)).await.is_err());
        proxy.set(Weather::Fair);
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
