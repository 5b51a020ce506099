//! What a server answers to requests that reach no handler: the code that every
//! other gRPC server has for it, and words.

use bytes::Bytes;
use http::{Method, StatusCode};
use registry_client::{Channel, ChannelConfig, policy::Methods, resolve::fixed::FixedResolver};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    server::within,
    strict::{LIMIT, Raw, Server, Strict, message, prefixed},
};

const ONE: &str = "test.v1.Strict/One";
const TWO: &str = "test.v1.Strict/Two";
const LAST: &str = "test.v1.Strict/Last";
const EACH: &str = "test.v1.Strict/Each";
const UNDESCRIBED: &str = "test.v1.Strict/Undescribed";

/// A field of the wrong type for a text, which no protobuf parser takes.
const NO_PROTOBUF: &[u8] = b"\x0a\xff\xff\xff\xff\xff";

async fn ends(server: &Server, request: Raw, code: Code, words: &str) {
    let what = (request.path.clone(), request.body.len());
    let answer = request.send(server).await;
    let status = answer.status.as_ref().unwrap_or_else(|| panic!("{what:?}: no grpc-status: {answer:?}"));
    assert_eq!(status.code(), code, "{what:?}: {status}");
    assert!(status.message().contains(words), "{what:?}: `{words}` is not in: {status}");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_resource_exhausted() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let large = message(&"x".repeat(LIMIT));
    for path in [ONE, TWO, LAST, EACH] {
        let words = "the limit is: 1000 bytes";
        ends(&server, Raw::to(path, [large.clone()]), Code::ResourceExhausted, words).await;
        // Only announced.
        ends(&server, Raw::to(path, [large.slice(..500)]), Code::ResourceExhausted, words).await;
        ends(&server, Raw::to(path, [large.slice(..5)]), Code::ResourceExhausted, words).await;
    }
    for path in [LAST, EACH] {
        let pieces = [message("hello"), large.slice(..500)];
        ends(&server, Raw::to(path, pieces), Code::ResourceExhausted, "the limit is").await;
    }
    let undescribed = Raw::to(UNDESCRIBED, [large.slice(..500)]);
    ends(&server, undescribed, Code::ResourceExhausted, "the limit is").await;
    // 4 GiB, all but a byte.
    let huge = Raw::to(ONE, [Bytes::from_static(b"\0\xff\xff\xff\xff")]);
    ends(&server, huge, Code::ResourceExhausted, "a message of 4294967295 bytes").await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_resource_exhausted() {
    let server = Server::start(Strict::default(), |_| {}).await;
    for path in [ONE, LAST] {
        let request = Raw::to(path, [message("size 2000")]);
        ends(&server, request, Code::ResourceExhausted, "the limit is: 1000 bytes").await;
    }
}

#[tokio::test]
async fn a_method_that_takes_one_message_takes_neither_two_nor_none() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let both = [message("one"), message("two")].concat();
    for path in [ONE, TWO] {
        let more = "more than one message";
        ends(&server, Raw::to(path, [message("one"), message("two")]), Code::Internal, more).await;
        ends(&server, Raw::to(path, [both.clone().into()]), Code::Internal, more).await;
        ends(&server, Raw::to(path, [message("one"), Bytes::from_static(&[0])]), Code::Internal, more).await;
        ends(&server, Raw::to(path, []), Code::Internal, "Missing request message").await;
    }
    for path in [LAST, EACH] {
        ends(&server, Raw::to(path, [both.clone().into()]), Code::Ok, "").await;
        ends(&server, Raw::to(path, []), Code::Ok, "").await;
    }
}

#[tokio::test]
async fn what_is_not_protobuf_is_an_invalid_argument() {
    let server = Server::start(Strict { gzip: true, ..Strict::default() }, |_| {}).await;
    for path in [ONE, TWO] {
        let words = "failed to decode Protobuf message";
        for body in [NO_PROTOBUF, b"\x0a\x02\xff\xfe", b"\x07", b"\x08\x01\x0a"] {
            ends(&server, Raw::to(path, [prefixed(0, body)]), Code::InvalidArgument, words).await;
            let request = Raw::to(path, [prefixed(1, &gzipped(body))]).header("grpc-encoding", "gzip");
            ends(&server, request, Code::InvalidArgument, words).await;
        }
    }
}

#[tokio::test]
async fn what_breaks_the_framing_is_internal() {
    let server = Server::start(Strict { gzip: true, ..Strict::default() }, |_| {}).await;
    for path in [ONE, TWO, LAST, EACH] {
        let cut = message("hello");
        let flagged = Raw::to(path, [prefixed(1, b"hello")]);
        ends(&server, flagged, Code::Internal, "no grpc-encoding was specified").await;
        let cut_short =
            Raw::to(path, [prefixed(1, &gzipped(b"hello")).slice(..9)]).header("grpc-encoding", "gzip");
        ends(&server, cut_short, Code::Internal, "the request ends within a message").await;
        let odd = Raw::to(path, [prefixed(2, b"hello")]);
        ends(&server, odd, Code::Internal, "a message whose first byte is 2").await;
        let short = Raw::to(path, [cut.slice(..7)]);
        ends(&server, short, Code::Internal, "Unexpected EOF").await;
        let shorter = Raw::to(path, [cut.slice(..3)]);
        ends(&server, shorter, Code::Internal, "Unexpected EOF").await;
        let packed = Raw::to(path, [prefixed(1, b"no gzip")]).header("grpc-encoding", "gzip");
        ends(&server, packed, Code::Internal, "marked as compressed with gzip is not").await;
    }
}

#[tokio::test]
async fn what_is_not_served_is_named() {
    let server = Server::start(Strict::default(), |_| {}).await;
    for (path, words) in [
        ("test.v1.Strict/Gone", "the service `test.v1.Strict` does not implement a method `Gone`"),
        (
            "test.v1.Gone/One",
            "this server has no service `test.v1.Gone`; it serves test.v1.Strict, grpc.health",
        ),
        ("grpc.health.v1.Health/Gone", "the service `grpc.health.v1.Health` does not implement"),
        ("test.v1.Strict", "`/test.v1.Strict` is not the path of a method"),
        ("test.v1.Strict/", "`/test.v1.Strict/` is not the path of a method"),
        ("", "`/` is not the path of a method"),
        ("/One", "`//One` is not the path of a method"),
    ] {
        ends(&server, Raw::to(path, [message("hello")]), Code::Unimplemented, words).await;
    }
}

#[tokio::test]
async fn what_a_handler_says_stays_what_it_says() {
    let server = Server::start(Strict::default(), |_| {}).await;
    for code in 1..=16 {
        let said = message(&format!("fail {code}"));
        for path in [ONE, TWO, LAST, EACH, UNDESCRIBED] {
            let code = Code::from(code);
            ends(&server, Raw::to(path, [said.clone()]), code, "the handler's own").await;
        }
        // More is under way when the handler fails.
        for path in [LAST, EACH] {
            let more = [said.clone(), message("more")];
            ends(&server, Raw::to(path, more), Code::from(code), "the handler's own").await;
        }
    }
}

#[tokio::test]
async fn http_statuses_carry_a_grpc_status_with_words() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let fine = Raw::to(ONE, [message("hello")]);
    let large = "x".repeat(17 * 1024);
    for (request, http, code, words) in [
        (fine.clone(), StatusCode::OK, Code::Ok, ""),
        (
            fine.clone().header("content-type", "text/html"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::InvalidArgument,
            "the content-type must be",
        ),
        (
            fine.clone().method(Method::GET),
            StatusCode::METHOD_NOT_ALLOWED,
            Code::Internal,
            "the HTTP method is GET, and gRPC takes POST",
        ),
        (
            fine.clone().method(Method::PUT),
            StatusCode::METHOD_NOT_ALLOWED,
            Code::Internal,
            "the HTTP method is PUT, and gRPC takes POST",
        ),
        (
            fine.clone().header("x-large", &large),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::ResourceExhausted,
            "bytes of headers, and the limit is 16384",
        ),
        (
            fine.clone().header("content-type", "text/html").header("x-large", &large),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::InvalidArgument,
            "the content-type must be",
        ),
    ] {
        let answer = request.send(&server).await;
        let status = answer.status.unwrap();
        assert_eq!((answer.http, status.code()), (http, code), "{status}");
        assert!(status.message().contains(words), "{status}");
        assert_eq!(answer.body.is_empty(), code != Code::Ok);
        let allowed = answer.headers.get("allow").map(|value| value.as_bytes());
        assert_eq!(allowed, (http == StatusCode::METHOD_NOT_ALLOWED).then_some(&b"POST"[..]));
    }
}

#[tokio::test]
async fn headers_up_to_the_limit_are_taken() {
    let server = Server::start(Strict::default(), |_| {}).await;
    for (size, expected) in [(15 * 1024, Code::Ok), (16 * 1024, Code::ResourceExhausted)] {
        let request = Raw::to(ONE, [message("hello")]).header("x-large", "x".repeat(size));
        assert_eq!(request.send(&server).await.status.unwrap().code(), expected, "{size}");
    }
}

pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_channel_of_ours_hears_the_same() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let resolver = FixedResolver::new([server.address]);
    let channel =
        Channel::new("test".parse().unwrap(), &resolver, Methods::default(), ChannelConfig::default());
    for (path, said, headers, code, words) in [
        ("/test.v1.Strict/One", LIMIT, 0, Code::ResourceExhausted, "the limit is: 1000 bytes"),
        ("/test.v1.Strict/One", 5, 20_000, Code::ResourceExhausted, "bytes of headers, and the limit is"),
        ("/test.v1.Strict/Gone", 5, 0, Code::Unimplemented, "does not implement a method `Gone`"),
        ("/test.v1.Gone/One", 5, 0, Code::Unimplemented, "this server has no service `test.v1.Gone`"),
        ("/test.v1.Strict/One", 5, 0, Code::Ok, ""),
    ] {
        let mut request = Request::new("x".repeat(said));
        request.metadata_mut().insert("x-large", "x".repeat(headers).parse().unwrap());
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static(path);
        let codec = ProstCodec::<String, String>::default();
        let ended = within(grpc.unary(request, path.clone(), codec)).await.map(|_| ());
        let status = ended.err().unwrap_or_else(|| Status::ok(""));
        assert_eq!(status.code(), code, "{path}: {status}");
        assert!(status.message().contains(words), "{path}: {status}");
    }
}
