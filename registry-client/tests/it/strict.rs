//! A gRPC service as tonic generates them, with a method of each kind, and
//! requests that no generated client would send. Messages are
//! `google.protobuf.StringValue`.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use registry_client::{Mesh, ServerConfig, resolve::fixed::FixedResolver};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{Code, Status, body::Body, codec::CompressionEncoding, server::NamedService};
use tonic_prost::ProstCodec;

use crate::server::within;

/// The most bytes of a message that `test.v1.Strict` takes or gives.
pub(crate) const LIMIT: usize = 1_000;

/// `test.v1.Strict`.
#[derive(Clone, Default)]
pub(crate) struct Strict {
    /// True if it takes and gives gzip.
    pub(crate) gzip: bool,
    /// Its limit, if that is not `LIMIT`.
    pub(crate) limit: Option<usize>,
}

impl NamedService for Strict {
    const NAME: &'static str = "test.v1.Strict";
}

type Strings = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// `CODE words` fails so, `size N` is a text of that size, and everything else
/// is echoed.
fn answer(said: &str) -> Result<String, Status> {
    let number = |text: &str| text.parse::<usize>().unwrap();
    match said.split_once(' ') {
        Some(("fail", code)) => Err(Status::new(Code::from(number(code) as i32), "the handler's own")),
        Some(("size", size)) => Ok("x".repeat(number(size))),
        _ => Ok(said.to_owned()),
    }
}

async fn one(request: tonic::Request<String>) -> Result<tonic::Response<String>, Status> {
    answer(request.get_ref()).map(tonic::Response::new)
}

async fn two(request: tonic::Request<String>) -> Result<tonic::Response<Strings>, Status> {
    let said = request.into_inner();
    Ok(tonic::Response::new(stream::iter([Ok("first".to_owned()), answer(&said)]).boxed()))
}

async fn last(request: tonic::Request<tonic::Streaming<String>>) -> Result<tonic::Response<String>, Status> {
    let mut requests = request.into_inner();
    let mut last = String::new();
    while let Some(said) = requests.message().await? {
        last = answer(&said)?;
    }
    Ok(tonic::Response::new(last))
}

async fn each(request: tonic::Request<tonic::Streaming<String>>) -> Result<tonic::Response<Strings>, Status> {
    let answers = request.into_inner().map(|said| answer(&said?));
    Ok(tonic::Response::new(answers.boxed()))
}

impl tower_service::Service<Request<Body>> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let codec = ProstCodec::<String, String>::default();
        let mut grpc = tonic::server::Grpc::new(codec)
            .max_decoding_message_size(self.limit.unwrap_or(LIMIT))
            .max_encoding_message_size(self.limit.unwrap_or(LIMIT));
        if self.gzip {
            grpc =
                grpc.accept_compressed(CompressionEncoding::Gzip).send_compressed(CompressionEncoding::Gzip);
        }
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next().unwrap() {
                "One" | "Undescribed" => grpc.unary(tower::service_fn(one), request).await,
                "Two" => grpc.server_streaming(tower::service_fn(two), request).await,
                "Last" => grpc.client_streaming(tower::service_fn(last), request).await,
                "Each" => grpc.streaming(tower::service_fn(each), request).await,
                // As the generated code has it.
                _ => Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "12")
                    .body(Body::default())
                    .unwrap(),
            })
        })
    }
}

/// What describes it.
fn descriptors() -> &'static [u8] {
    let method = |(name, requests, answers): (&str, bool, bool)| MethodDescriptorProto {
        name: Some(name.into()),
        input_type: Some(".google.protobuf.StringValue".into()),
        output_type: Some(".google.protobuf.StringValue".into()),
        client_streaming: Some(requests),
        server_streaming: Some(answers),
        ..Default::default()
    };
    let kinds = [("One", false, false), ("Two", false, true), ("Last", true, false), ("Each", true, true)];
    let service = ServiceDescriptorProto {
        name: Some("Strict".into()),
        method: kinds.map(method).into(),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("test/v1/strict.proto".into()),
        package: Some("test.v1".into()),
        service: vec![service],
        ..Default::default()
    };
    Vec::leak(FileDescriptorSet { file: vec![file] }.encode_to_vec())
}

/// A server of `test.v1.Strict`; ends with the test.
pub(crate) struct Server {
    pub(crate) address: std::net::SocketAddr,
    _stop: oneshot::Sender<()>,
    run: JoinHandle<Result<(), registry_client::Error>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run.abort();
    }
}

impl Server {
    pub(crate) async fn start(service: Strict, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::default();
        change(&mut config);
        let mesh = Mesh::builder().resolver(FixedResolver::new::<std::net::SocketAddr>([])).build().unwrap();
        let server = mesh.serve("test").config(config).descriptors(descriptors()).add_service(service);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = oneshot::channel::<()>();
        let run = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        Self { address, _stop, run }
    }
}

/// A request, bytes and all.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<Bytes>,
}

/// What came back of one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) status: Option<Status>,
}

impl Raw {
    pub(crate) fn to(path: &str, body: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            method: Method::POST,
            path: path.to_owned(),
            headers: vec![("content-type", "application/grpc".into()), ("te", "trailers".into())],
            body: body.into_iter().collect(),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(crate) async fn send(self, server: &Server) -> Answer {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let serving = tokio::spawn(connection);
        let mut request = Request::builder().method(self.method).uri(format!("http://test/{}", self.path));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let mut send = within(send.ready()).await.unwrap();
        let (answer, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        for piece in self.body {
            // A server that has rejected the call reads none of it.
            let _ = body.send_data(piece, false);
        }
        let _ = body.send_data(Bytes::new(), true);
        let (head, mut body) = within(answer).await.unwrap().into_parts();
        let mut read = BytesMut::new();
        while let Some(data) = within(body.data()).await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            read.put(data);
        }
        let trailers = within(body.trailers()).await.unwrap();
        serving.abort();
        let status = Status::from_header_map(trailers.as_ref().unwrap_or(&head.headers));
        Answer { http: head.status, headers: head.headers, body: read.freeze(), status }
    }
}

/// A message with its prefix.
pub(crate) fn message(said: &str) -> Bytes {
    prefixed(0, &said.to_owned().encode_to_vec())
}

pub(crate) fn prefixed(flag: u8, bytes: &[u8]) -> Bytes {
    let mut framed = vec![flag];
    framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed.into()
}
