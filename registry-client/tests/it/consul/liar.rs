//! An agent whose responses a test scripts, true or not.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use registry_client::consul::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) target: String,
    /// The whole head, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
    /// How many came before it, on any connection.
    pub(crate) turn: usize,
    /// How many came before it on the same connection.
    pub(crate) nth: usize,
}

impl Request {
    /// Returns whether it waits for a change.
    pub(crate) fn blocks(&self) -> bool {
        self.target.contains("index=") || self.target.contains("hash=")
    }
}

/// What it answers.
pub(crate) enum Reply {
    /// Status, further headers, body.
    Http(u16, Vec<(&'static str, String)>, String),
    /// These bytes, and the connection is closed.
    Raw(Vec<u8>),
    /// A body without end.
    Endless,
    /// Nothing, for ever.
    Hang,
    /// The connection is closed.
    Close,
}

impl Reply {
    /// A good response of the blocking backend.
    pub(crate) fn good(index: u64, body: &str) -> Self {
        let headers = vec![
            ("X-Consul-Index", index.to_string()),
            ("X-Consul-Knownleader", "true".to_owned()),
            ("X-Consul-Lastcontact", "0".to_owned()),
            ("X-Consul-Query-Backend", "blocking-query".to_owned()),
        ];
        Self::Http(200, headers, body.to_owned())
    }

    pub(crate) fn plain(status: u16, body: &str) -> Self {
        Self::Http(status, Vec::new(), body.to_owned())
    }
}

/// The liar; its connections end with it.
pub(crate) struct FakeRegistry {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
    task: AbortHandle,
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

impl FakeRegistry {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, open) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicUsize>::default());
        let answer: Arc<Answer> = Arc::new(answer);
        let shared = (Arc::clone(&seen), Arc::clone(&open));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, open) = shared.clone();
                connections.spawn(serve(stream, Arc::clone(&answer), seen, open));
            }
        });
        Self { addr, seen, open, task: task.abort_handle() }
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder(&self.addr.to_string()).build().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Request>>>,
    open: Arc<AtomicUsize>,
) {
    open.fetch_add(1, Relaxed);
    let _open = Open(open);
    for nth in 0.. {
        let Some((head, body)) = request(&mut stream).await else { return };
        let mut words = head.split_whitespace().map(str::to_owned);
        let request = {
            let mut seen = seen.lock().unwrap();
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let head = head.to_ascii_lowercase();
            let request = Request { method, target, head, body, turn: seen.len(), nth };
            seen.push(request.clone());
            request
        };
        let bytes = match answer(&request) {
            Reply::Http(status, headers, body) => {
                let headers: String =
                    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let length = body.len();
                format!("HTTP/1.1 {status} Said\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
                    .into_bytes()
            }
            Reply::Raw(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Reply::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[").await;
                while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
                return;
            }
            Reply::Hang => {
                // Until the client gives up.
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Reply::Close => return,
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Reads one request: its head and its body.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    let length = head
        .to_ascii_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split_whitespace().next().unwrap().parse::<usize>().unwrap());
    while read.len() < end + length {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, String::from_utf8(read[end..end + length].to_vec()).unwrap()))
}
