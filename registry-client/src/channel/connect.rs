//! The sockets of connections to instances.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use crate::{
    ChannelConfig,
    dial::{self, Liveness},
    instance::Address,
};

/// The connector of a channel; opens TCP sockets unless a test replaces it.
/// Cheap to clone.
#[derive(Clone, Default)]
#[cfg_attr(not(feature = "test-util"), expect(unreachable_pub, reason = "public for tests only"))]
pub struct Connector(ConnectorKind);

#[derive(Clone, Default)]
enum ConnectorKind {
    #[default]
    Tcp,
    /// TCP, to addresses that a test provides.
    #[cfg(feature = "test-util")]
    Resolving(Lookup),
    #[cfg(feature = "test-util")]
    Other(std::sync::Arc<dyn Fn(Address) -> Opening + Send + Sync>),
}

/// A byte stream in both directions.
#[cfg(feature = "test-util")]
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

#[cfg(feature = "test-util")]
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

#[cfg(feature = "test-util")]
type Opening = futures_util::future::BoxFuture<'static, io::Result<Box<dyn Io>>>;

#[cfg(feature = "test-util")]
type Lookup = std::sync::Arc<dyn Fn(&Address) -> Vec<std::net::SocketAddr> + Send + Sync>;

#[cfg(feature = "test-util")]
impl Connector {
    /// A connector that opens what `open` opens for an instance's address.
    /// The channel bounds the wait by `connect_timeout` and drops the future
    /// when it gives up.
    pub fn new<F, T>(open: impl Fn(Address) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Io,
    {
        let open = move |address| -> Opening {
            let opening = open(address);
            Box::pin(async move { Ok(Box::new(opening.await?) as Box<dyn Io>) })
        };
        Self(ConnectorKind::Other(std::sync::Arc::new(open)))
    }

    /// A connector that opens TCP connections as a channel does, to the
    /// addresses that `look_up` finds for an instance's address.
    pub fn resolving(
        look_up: impl Fn(&Address) -> Vec<std::net::SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        Self(ConnectorKind::Resolving(std::sync::Arc::new(look_up)))
    }
}

impl Connector {
    /// Opens a socket to `address` by `deadline`; a host name is looked up, and
    /// all its addresses are tried.
    pub(super) async fn open(
        &self,
        address: &Address,
        deadline: Instant,
        config: &ChannelConfig,
    ) -> io::Result<Socket> {
        let socket = match &self.0 {
            ConnectorKind::Tcp => dial::connect(address.host(), address.port(), deadline).await?,
            #[cfg(feature = "test-util")]
            ConnectorKind::Resolving(look_up) => {
                dial::connect_any(address.host(), look_up(address), deadline).await?
            }
            #[cfg(feature = "test-util")]
            ConnectorKind::Other(open) => return open(address.clone()).await.map(Socket::Other),
        };
        Liveness::new(config.keepalive_time, config.keepalive_timeout).apply(&socket);
        Ok(Socket::Tcp(socket))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// An open socket. An enum, so that TCP is called without indirection.
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(feature = "test-util")]
    Other(Box<dyn Io>),
}

/// Calls the same method of either kind of socket.
macro_rules! either {
    ($socket:expr, $io:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($io) => $call,
            #[cfg(feature = "test-util")]
            Socket::Other($io) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, io => io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}
