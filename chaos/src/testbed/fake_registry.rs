//! A proxy in front of a registry that passes requests on or sends a fake
//! response.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::consul::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::ports;

/// The limit on a request.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// The limit on reading a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The response that is sent instead of the registry's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum FakeResponse {
    /// The registry's own response.
    #[default]
    PassThrough,
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// A head, a middle that is repeated, and a tail, for responses that do not
    /// fit into memory. Only one is sent at a time; other requests are passed
    /// through.
    Long(Arc<[u8]>, Arc<[u8]>, usize, Arc<[u8]>),
    /// The registry's own response without `stale`: only the leader may answer.
    Consistent,
}

impl FakeResponse {
    /// A complete HTTP response.
    pub(crate) fn http(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Self::Bytes(text.into_bytes().into())
    }
}

/// The proxy. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct FakeRegistry {
    listen: SocketAddr,
    fake_response: watch::Sender<FakeResponse>,
    requests: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl FakeRegistry {
    /// Starts in front of the registry at `upstream`, and passes everything on.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) async fn in_front_of(upstream: SocketAddr) -> Result<Self> {
        let listen = ports::free()?;
        let listener = TcpListener::bind(listen).await.context("could not listen")?;
        let (fake_response, responses) = watch::channel(FakeResponse::PassThrough);
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            let long_turn = Arc::new(Semaphore::new(1));
            while let Ok((stream, _)) = listener.accept().await {
                let (responses, long_turn, counter) = (responses.clone(), long_turn.clone(), counter.clone());
                // Ends with its peer, which is in this process.
                tokio::spawn(async move {
                    serve_connection(stream, upstream, responses, &counter, &long_turn).await
                });
            }
        });
        Ok(Self { listen, fake_response, requests, _task: AbortOnDropHandle::new(task) })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// A client of the proxy.
    ///
    /// # Errors
    /// Never: the address is valid.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::builder(&format!("http://{}", self.listen)).build()?)
    }

    /// Sets the response; connections that wait for the registry are closed.
    pub(crate) fn respond_with(&self, fake_response: FakeResponse) {
        self.fake_response.send_replace(fake_response);
    }

    /// The number of requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

/// Serves the one request of a connection.
async fn serve_connection(
    mut stream: TcpStream,
    upstream: SocketAddr,
    mut responses: watch::Receiver<FakeResponse>,
    requests: &AtomicUsize,
    long_turn: &Semaphore,
) -> io::Result<()> {
    let mut request = timeout(REQUEST_TIMEOUT, read(&mut stream)).await??;
    requests.fetch_add(1, Relaxed);
    let fake_response = responses.borrow_and_update().clone();
    match fake_response {
        FakeResponse::Bytes(bytes) => return stream.write_all(&bytes).await,
        FakeResponse::Long(begin, middle, times, end) => {
            if let Ok(_turn) = long_turn.try_acquire() {
                stream.write_all(&begin).await?;
                for _ in 0..times {
                    stream.write_all(&middle).await?;
                }
                return stream.write_all(&end).await;
            }
        }
        FakeResponse::Consistent => {
            if let Some(at) = request.windows(5).position(|word| word == b"stale") {
                // Consul ignores unknown parameters.
                request[at..at + 5].copy_from_slice(b"fresh");
            }
        }
        FakeResponse::PassThrough => {}
    }
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&request).await?;
    tokio::select! {
        passed = copy_bidirectional(&mut stream, &mut server) => passed.map(drop),
        _ = responses.changed() => Ok(()),
    }
}

/// Reads a request's head, with `Connection: close` added.
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            request.splice(end..end, *b"\r\nConnection: close");
            return Ok(request);
        }
        if stream.read_buf(&mut request).await? == 0 || request.len() > MAX_REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
