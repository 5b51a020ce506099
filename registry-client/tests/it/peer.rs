//! An HTTP/2 server that answers as a test says, below any gRPC library: for
//! what a decent server never does.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{HeaderMap, Request, Response};
use registry_client::instance::Instance;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What becomes of one request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Its own messages come back.
    Echo,
    /// One message of so many bytes comes back, before the request has ended.
    Bytes(usize),
    /// `grpc-status: 14`, without a message.
    Unavailable,
    /// A status with details that are not base64.
    BadDetails,
    /// `RST_STREAM` with `REFUSED_STREAM`.
    Refuse,
    /// Nothing, ever.
    Hang,
    /// The head of an answer, and then nothing.
    HangAfterHead,
    /// The connection is closed.
    Close,
}

/// A server of test replies. Dropping it kills it.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Heads of all requests so far.
    pub(crate) heads: Arc<Mutex<Vec<HeaderMap>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    /// Streams that the client has reset.
    pub(crate) resets: Arc<watch::Sender<usize>>,
    going_away: watch::Sender<()>,
    _tasks: JoinSet<()>,
}

type Script = dyn Fn(usize) -> Reply + Send + Sync;

impl Peer {
    /// Answers the `n`th request, counted from 0, as `script(n)` says.
    pub(crate) async fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let mut peer = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            connections: Arc::default(),
            resets: Arc::default(),
            going_away: watch::Sender::new(()),
            _tasks: JoinSet::new(),
        };
        let serving = Serving {
            script: Arc::new(script),
            heads: peer.heads.clone(),
            resets: peer.resets.clone(),
            going_away: peer.going_away.subscribe(),
        };
        let connections = peer.connections.clone();
        peer._tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                open.spawn(serving.clone().connection(socket));
            }
        });
        peer
    }

    pub(crate) fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// Sends GOAWAY on every connection, after which open streams finish.
    pub(crate) fn go_away(&self) {
        self.going_away.send_replace(());
    }

    /// A passing instance of weight 1 under this id.
    pub(crate) fn instance(&self, id: &str) -> Instance {
        Instance::new(id, self.address.into())
    }
}

#[derive(Clone)]
struct Serving {
    script: Arc<Script>,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
    resets: Arc<watch::Sender<usize>>,
    going_away: watch::Receiver<()>,
}

impl Serving {
    async fn connection(mut self, socket: TcpStream) {
        socket.set_nodelay(true).unwrap();
        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
        let mut streams = JoinSet::new();
        let mut leaving = false;
        // Only what is open when it is said goes away.
        self.going_away.mark_unchanged();
        loop {
            tokio::select! {
                request = connection.accept() => {
                    let Some(Ok((request, answer))) = request else { return };
                    let n = {
                        let mut heads = self.heads.lock().unwrap();
                        heads.push(request.headers().clone());
                        heads.len() - 1
                    };
                    match (self.script)(n) {
                        Reply::Close => return,
                        reply => { streams.spawn(stream(reply, request, answer, self.resets.clone())); }
                    }
                }
                Ok(()) = self.going_away.changed(), if !leaving => {
                    leaving = true;
                    connection.graceful_shutdown();
                }
                Some(_) = streams.join_next() => {}
            }
        }
    }
}

async fn stream(
    reply: Reply,
    request: Request<h2::RecvStream>,
    mut answer: SendResponse<Bytes>,
    resets: Arc<watch::Sender<usize>>,
) {
    let head = || Response::builder().header("content-type", "application/grpc");
    let only_status = |status: &str| head().header("grpc-status", status).body(()).unwrap();
    let count = || resets.send_modify(|resets| *resets += 1);
    let mut body = request.into_body();
    match reply {
        Reply::Unavailable => drop(answer.send_response(only_status("14"), true)),
        Reply::BadDetails => {
            let mut status = only_status("3");
            status.headers_mut().insert("grpc-status-details-bin", "!".parse().unwrap());
            drop(answer.send_response(status, true));
        }
        Reply::Refuse => answer.send_reset(Reason::REFUSED_STREAM),
        Reply::Hang => {
            let _ = std::future::poll_fn(|cx| answer.poll_reset(cx)).await;
            count();
        }
        Reply::HangAfterHead => {
            let mut out = answer.send_response(head().body(()).unwrap(), false).unwrap();
            let _ = std::future::poll_fn(|cx| out.poll_reset(cx)).await;
            count();
        }
        Reply::Echo | Reply::Bytes(_) => {
            let Ok(mut out) = answer.send_response(head().body(()).unwrap(), false) else { return };
            if let Reply::Bytes(size) = reply {
                send(&mut out, message(size)).await;
            } else {
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    send(&mut out, data).await;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = out.send_trailers(trailers);
        }
        Reply::Close => unreachable!("closes the connection before a stream is served"),
    }
}

/// Sends as fast as the client's window allows.
async fn send(out: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
        if out.send_data(data.split_to(room.min(data.len())), false).is_err() {
            return;
        }
    }
}

/// A `StringValue` of about `size` bytes, framed as gRPC frames it.
fn message(size: usize) -> Bytes {
    let message = prost::Message::encode_to_vec(&"x".repeat(size));
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed.into()
}
