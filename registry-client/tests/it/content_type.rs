//! What a server takes for gRPC.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;

use crate::server::{Running, within};

/// What the server answers to a call with these content types: the status of
/// HTTP, the headers, and the body.
async fn call(
    server: &Running,
    method: &str,
    content_types: &[&'static str],
) -> (StatusCode, HeaderMap, Bytes) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let serving = tokio::spawn(connection);
    let mut request = Request::post(format!("http://test/{method}")).header("te", "trailers");
    for value in content_types {
        request = request.header("content-type", *value);
    }
    let mut send = send.ready().await.unwrap();
    let (answer, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
    // The message `hello` of a field 1. A server that has rejected the call
    // reads none of it.
    let _ = body.send_data(Bytes::from_static(b"\0\0\0\0\x07\x0a\x05hello"), true);
    let (head, mut body) = within(answer).await.unwrap().into_parts();
    let mut read = BytesMut::new();
    while let Some(data) = within(body.data()).await {
        read.put(data.unwrap());
    }
    serving.abort();
    (head.status, head.headers, read.freeze())
}

#[tokio::test]
async fn what_is_not_grpc_is_refused_and_reaches_no_handler() {
    let server = Running::start(|_| {}).await;
    let others: [&[&str]; 7] = [
        &[],
        &[""],
        &["application/json"],
        &["application/grpc-web+proto"],
        &["application/grpc+json"],
        &["application/grpcx"],
        &["application/grpc", "text/html"],
    ];
    for content_types in others {
        // A handler that began would hold the call.
        let (status, headers, body) = call(&server, "test.v1.Scripted/Hold", content_types).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_types:?}");
        assert_eq!((&headers["grpc-status"], body.len()), (&"3".parse().unwrap(), 0), "{content_types:?}");
    }
    assert_eq!(server.service.begun.available_permits(), 0, "a handler began");
}

#[tokio::test]
async fn health_and_what_is_unknown_are_grpc_too() {
    let server = Running::start(|_| {}).await;
    for method in ["grpc.health.v1.Health/Check", "test.v1.Scripted/Unheard", "none/None"] {
        let (status, ..) = call(&server, method, &["text/plain"]).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{method}");
    }
}

#[tokio::test]
async fn grpc_is_taken_however_it_is_written() {
    let server = Running::start(|_| {}).await;
    for value in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        let (status, headers, body) = call(&server, "test.v1.Scripted/Echo", &[value]).await;
        assert_eq!((status, headers.get("grpc-status")), (StatusCode::OK, None), "{value}");
        assert!(body.ends_with(b"hello"), "{value}: {body:?}");
    }
}
