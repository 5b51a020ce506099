//! A service that returns what it gets, and a client for it, as `tonic-build`
//! would write them.

use std::{
    convert::Infallible,
    error::Error,
    future::{Future, Ready, pending, ready},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use registry_client::{Mesh, resolve::fixed::FixedResolver};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::GrpcService,
    server::{NamedService, UnaryService},
    transport::server::{Server, TcpIncoming},
};
use tonic_prost::ProstCodec;

/// The one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}

/// Sends one payload and returns what comes back.
pub(crate) async fn call<T>(channel: T, payload: Payload) -> Result<Payload, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unknown(e.into().to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/bench.v1.Echo/Echo");
    Ok(grpc.unary(Request::new(payload), path, ProstCodec::default()).await?.into_inner())
}

/// Which server answers.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tonic,
    Consort,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tonic" => Ok(Self::Tonic),
            "consort" => Ok(Self::Consort),
            _ => Err(format!("`{text}` is not a server: tonic or consort")),
        }
    }
}

/// Starts a server on a free port of loopback.
pub(crate) async fn start(kind: Kind) -> Result<u16, Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    match kind {
        Kind::Tonic => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tokio::spawn(Server::builder().add_service(Echo).serve_with_incoming(incoming));
        }
        Kind::Consort => {
            let mesh = Mesh::builder().resolver(FixedResolver::with([])).build()?;
            tokio::spawn(mesh.serve("echo").add_service(Echo).run(listener, pending()));
        }
    }
    Ok(port)
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.v1.Echo";
}

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(
            async move { Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(echo, request).await) },
        )
    }
}
