//! A gRPC service whose calls follow a test's script, and a client without any
//! cleverness of its own. Messages are `google.protobuf.StringValue`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response, StatusCode};
use prost::Message;
use tokio::{net::TcpStream, sync::Semaphore};
use tonic::{Status, body::Body, server::NamedService};
use tonic_prost::ProstCodec;

/// `test.v1.Scripted`.
#[derive(Clone)]
pub(crate) struct Scripted {
    /// Has a permit for every `Hold` that has begun.
    pub(crate) begun: Arc<Semaphore>,
    /// A permit lets one `Hold` end.
    pub(crate) release: Arc<Semaphore>,
    /// When each `Hold` and each stream of `Ticks` was dropped.
    pub(crate) dropped: Arc<Mutex<Vec<Instant>>>,
    /// How many calls of `Work` are worked on at once.
    pub(crate) workers: Arc<Semaphore>,
}

/// How long `Work` takes once it is worked on.
pub(crate) const WORK: Duration = Duration::from_millis(20);

/// Tells when it was dropped.
struct Dropped(Arc<Mutex<Vec<Instant>>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(Instant::now());
    }
}

impl Default for Scripted {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { begun: semaphore(0), release: semaphore(0), dropped: Arc::default(), workers: semaphore(4) }
    }
}

impl NamedService for Scripted {
    const NAME: &'static str = "test.v1.Scripted";
}

type Answers = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl Scripted {
    async fn unary(self, method: String, said: String) -> Result<tonic::Response<String>, Status> {
        match method.as_str() {
            "Echo" => {}
            "Large" => return Ok(tonic::Response::new("x".repeat(128 << 10))),
            "Work" => {
                let _one = self.workers.acquire().await.unwrap();
                tokio::time::sleep(WORK).await;
            }
            "Hold" => {
                let _reported = Dropped(self.dropped.clone());
                self.begun.add_permits(1);
                self.release.acquire().await.unwrap().forget();
            }
            _ => panic!("as the test requested"),
        }
        Ok(tonic::Response::new(said))
    }

    /// One message, then nothing for ever, or a panic.
    fn stream(&self, method: &str, said: String) -> Answers {
        let first = stream::iter([Ok(said)]);
        let reported = Dropped(self.dropped.clone());
        match method {
            "Ticks" => Box::pin(first.chain(stream::pending()).inspect(move |_| {
                let _ = &reported;
            })),
            _ => Box::pin(first.chain(stream::once(async { panic!("as the test requested") }))),
        }
    }
}

impl tower_service::Service<Request<Body>> for Scripted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
        Box::pin(async move {
            Ok(match method.as_str() {
                "Ticks" | "PanicLater" => {
                    let answer = move |said: tonic::Request<String>| {
                        this.begun.add_permits(1);
                        let stream = this.stream(&method, said.into_inner());
                        async move { Ok::<_, Status>(tonic::Response::new(stream)) }
                    };
                    grpc.server_streaming(tower::service_fn(answer), request).await
                }
                _ => {
                    let answer = move |said: tonic::Request<String>| {
                        this.clone().unary(method.clone(), said.into_inner())
                    };
                    grpc.unary(tower::service_fn(answer), request).await
                }
            })
        })
    }
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Connection(SendRequest<Bytes>);

impl Connection {
    pub(crate) async fn open(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, &h2::client::Builder::new()).await
    }

    /// One over `stream`, as `settings` say.
    pub(crate) async fn over(stream: TcpStream, settings: &h2::client::Builder) -> Self {
        let (send, connection) = settings.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    /// Begins a call and sends `body` of it, and no end.
    pub(crate) async fn open_call(
        &self,
        method: &str,
        body: Option<Bytes>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request =
            Request::post(format!("http://test/{method}")).header("content-type", "application/grpc");
        let mut send = self.0.clone().ready().await?;
        let (response, mut stream) = send.send_request(request.body(()).unwrap(), false)?;
        if let Some(body) = body {
            stream.send_data(body, false)?;
        }
        Ok((response, stream))
    }

    /// Returns whether the server still takes new calls on this connection.
    pub(crate) async fn is_usable(&self) -> bool {
        self.0.clone().ready().await.is_ok()
    }

    /// Completes when the server has closed this connection.
    pub(crate) async fn until_closed(&self) {
        while self.0.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Begins a call of `/service/method` with further headers.
    pub(crate) async fn begin(&self, method: &str, headers: &[(&str, &str)]) -> Result<Answer, h2::Error> {
        self.begin_with(method, headers, frame(&"hello".to_owned())).await
    }

    /// The same with another body.
    async fn begin_with(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        sent: Bytes,
    ) -> Result<Answer, h2::Error> {
        let mut request = Request::post(format!("http://test/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.0.clone().ready().await?;
        let (response, mut body) = send.send_request(request.body(()).unwrap(), false)?;
        // A server that has answered already needs none of it.
        let _ = body.send_data(sent, true);
        let (head, body) = response.await?.into_parts();
        Ok(Answer { http: head.status, headers: head.headers, body })
    }

    /// Makes a call; its status, and its last message.
    pub(crate) async fn call(
        &self,
        method: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Status, String), h2::Error> {
        self.begin(method, headers).await?.finish().await
    }

    /// The status of a call with another body.
    pub(crate) async fn send_whole(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        sent: Bytes,
    ) -> Result<Status, h2::Error> {
        Ok(self.begin_with(method, headers, sent).await?.finish().await?.0)
    }

    pub(crate) async fn echo(&self) -> String {
        let (status, said) = self.call("test.v1.Scripted/Echo", &[]).await.unwrap();
        assert_eq!(status.code(), tonic::Code::Ok, "{status}");
        said
    }
}

/// What comes back of one call.
pub(crate) struct Answer {
    http: StatusCode,
    headers: HeaderMap,
    body: RecvStream,
}

impl Answer {
    /// The next message; none is split over frames in these tests.
    pub(crate) async fn message(&mut self) -> Option<Result<String, h2::Error>> {
        let data = match self.body.data().await? {
            Ok(data) => data,
            Err(error) => return Some(Err(error)),
        };
        self.body.flow_control().release_capacity(data.len()).unwrap();
        Some(Ok(String::decode(&data[5..]).unwrap()))
    }

    pub(crate) async fn finish(mut self) -> Result<(Status, String), h2::Error> {
        let mut last = String::new();
        while let Some(message) = self.message().await {
            last = message?;
        }
        let trailers = self.body.trailers().await?.unwrap_or(self.headers);
        let not_grpc = || Status::unknown(format!("HTTP {}", self.http));
        Ok((Status::from_header_map(&trailers).unwrap_or_else(not_grpc), last))
    }
}

pub(crate) fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
    frame.extend(encoded);
    frame.into()
}
