//! Bytes that are not a request.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use service_kit::testing::TestDatabase;
use tokio::net::TcpStream;
use tonic::Code;

use crate::{
    dynamic::Method,
    hostile::good,
    rows::ROWS,
    shop::{Caller, outcome, serving_service},
    stage::Stage,
};
use prost::Message as _;

/// Bytes that are no message of the protocol.
fn malformed() -> Vec<(&'static str, Vec<u8>, &'static [Code])> {
    let decode: &[Code] = &[Code::InvalidArgument];
    vec![
        ("a length beyond the end", vec![0x0a, 0x7f, b'a'], decode),
        ("a number without its end", vec![0x08, 0xff], decode),
        ("a length of 2^63", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], decode),
        ("field 0", vec![0x02, 0x00], decode),
        ("an unknown wire type", vec![0x0f], decode),
        ("a group that does not end", vec![0x0b; 200], decode),
        ("more than 4 MiB", vec![0; (4 << 20) + 1], &[Code::OutOfRange, Code::ResourceExhausted]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_request_are_refused_by_every_method() {
    let stage = Stage::open(&TestDatabase::sqlite()).await;
    let before = stage.all_of(&stage.ada).await;
    for row in ROWS {
        let who = stage.authorized_caller(row);
        for (what, bytes, codes) in malformed() {
            let response = stage.shop.send(&who, row.path, bytes.into()).await;
            assert!(codes.contains(&outcome(&response).0), "{} {what}: {response:?}", row.path);
        }
        // Text that is none: not UTF-8.
        let request = good(row, &stage.ada);
        if request.fields().any(|(field, _)| field.number() == 1) && has_text_first(row.path) {
            let response = stage.shop.send(&who, row.path, vec![0x0a, 2, 0xff, 0xfe].into()).await;
            assert_eq!(outcome(&response).0, Code::InvalidArgument, "{}: {response:?}", row.path);
        }
        let cut: Vec<u8> = request.encode_to_vec();
        if let Some((_, cut)) = cut.split_last() {
            let response = stage.shop.send(&Caller::Nobody, row.path, cut.to_vec().into()).await;
            assert_ne!(outcome(&response).0, Code::Ok, "{}, cut short", row.path);
        }
    }
    assert_eq!(stage.all_of(&stage.ada).await, before, "what was no request has changed something");
}

fn has_text_first(path: &str) -> bool {
    let pool = prost_reflect::DescriptorPool::decode(mesh_proto::FILE_DESCRIPTOR_SET).unwrap();
    let (service, name) = path.split_once('/').unwrap();
    let service = pool.get_service_by_name(service).unwrap();
    let method = service.methods().find(|method| method.name() == name).unwrap();
    let first = method.input().get_field(1);
    first.is_some_and(|field| field.kind() == prost_reflect::Kind::String)
}

/// Requests that no gRPC client makes, on one connection each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_grpc_is_refused_and_the_service_answers_on() {
    let stage = Stage::open(&TestDatabase::sqlite()).await;
    let frames: [(&str, &[u8]); 5] = [
        ("a negative length", &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        ("a length beyond the end", &[0, 0, 0, 0, 9, 1]),
        ("half a head", &[0, 0, 0]),
        ("an unknown flag", &[7, 0, 0, 0, 0]),
        ("compressed by nothing that was named", &[1, 0, 0, 0, 1, 0]),
    ];
    for row in ROWS {
        let method = Method::find(row.path).unwrap();
        let address = stage.shop.address(&serving_service(&method));
        for (what, frame) in frames {
            let (status, code) = raw(address, row.path, frame, &stage).await;
            assert!(status != StatusCode::OK || code != Some("0".into()), "{} {what}", row.path);
        }
    }
    stage.all_of(&stage.ada).await;
}

/// Posts `frame` as an admin; returns the HTTP status and the gRPC status.
async fn raw(
    address: std::net::SocketAddr,
    path: &str,
    frame: &'static [u8],
    stage: &Stage,
) -> (StatusCode, Option<String>) {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let serving = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", stage.admin.access))
        .body(Full::new(Bytes::from_static(frame)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let grpc_status =
        |map: &http::HeaderMap| map.get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
    let mut code = grpc_status(&head.headers);
    if code.is_none() {
        let body = body.collect().await;
        code = body.ok().and_then(|body| body.trailers().and_then(grpc_status));
    }
    serving.abort();
    (head.status, code)
}
