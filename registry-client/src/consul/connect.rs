//! Connections to an agent: TCP, TLS or a unix socket.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::{Instant, timeout_at},
};

use super::{
    endpoint::{Endpoint, EndpointAddress},
    tls::Secure,
};
use crate::dial::{self, Liveness};

/// The timeout of connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// TCP keepalive: a blocking query is silent for minutes, and an agent whose
/// machine is gone should be detected sooner.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// The connector to the one agent of a client, whatever the URI.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Arc<Endpoint>,
    secure: Option<Secure>,
}

impl Connector {
    pub(super) fn new(endpoint: Arc<Endpoint>, secure: Option<Secure>) -> Self {
        Self { endpoint, secure }
    }

    async fn connect(self, deadline: Instant) -> io::Result<Stream> {
        let io: Box<dyn Io> = match &self.endpoint.address {
            EndpointAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
            EndpointAddress::Tcp { host, port, .. } => {
                let tcp = dial::connect(host, *port, deadline).await?;
                Liveness::new(KEEPALIVE_TIME, KEEPALIVE_TIMEOUT).apply(&tcp);
                match self.secure {
                    Some(secure) => Box::new(secure.connector.connect(secure.name, tcp).await?),
                    None => Box::new(tcp),
                }
            }
        };
        Ok(Stream { io: TokioIo::new(io), used: Used::default() })
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let connect = self.clone().connect(deadline);
        Box::pin(async move {
            let late = || {
                io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_TIMEOUT:?}"))
            };
            timeout_at(deadline, connect).await.map_err(|_| late())?
        })
    }
}

/// A mark for connections that have carried a response: a failure of a pooled
/// one is normal. Part of the response's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Used(Arc<AtomicBool>);

impl Used {
    pub(super) fn mark(&self) {
        self.0.store(true, Relaxed);
    }

    pub(super) fn is_marked(&self) -> bool {
        self.0.load(Relaxed)
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection for hyper.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    used: Used,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.used.clone())
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
